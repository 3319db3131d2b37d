"""Image files as bytes, of 8 bits a channel."""

import numpy

# None of Pillow's decoders that run other programs
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "PPM", "TIFF")
_BYTES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
_WHOLE = ("PNG", "PPM")  # formats whose mode "I" has 16 bits
_BITS, _INTERPRETATION = 258, 262  # tags of TIFF


def decode(pillow, path, mode):
    """uint8 [H, W, C] of an image file, of several frames or pages the first; C: 1 of mode "L", 3 of mode "RGB".

    Grey of 16 bits is scaled from 0..65535 to 0..255; Pillow takes the upper byte of colours of 16 bits.

    Raises:
        ValueError: floats and whole numbers of 32 bits, whose range no file tells.
        Exception: whatever Pillow raises of a broken file, or one that it takes for a decompression bomb.
    """
    with pillow.open(path, formats=FORMATS) as image:
        pixels = numpy.array((image if image.mode in _BYTES else pillow.fromarray(_scaled(image))).convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)


def _scaled(image):
    """Grey of 16 bits as uint8 [H, W], rounded."""
    deep = image.mode.startswith("I;16") or image.mode == "I" and image.format in _WHOLE
    if image.format == "TIFF":
        deep = deep and image.tag_v2.get(_BITS) == (16,) and image.tag_v2.get(_INTERPRETATION) != 0
    if not deep:
        raise ValueError(f"expected pixels of 8 bits, or grey of 16, got {image.format} of mode {image.mode}; a .npz or "
                         ".safetensors file holds images of floats")
    values = numpy.array(image).astype(numpy.uint32)
    return ((255 * values + 32767) // 65535).astype(numpy.uint8)
