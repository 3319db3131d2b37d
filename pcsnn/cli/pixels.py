"""Image files as bytes, of 8 bits a channel."""

import numpy

# None of Pillow's decoders that run other programs
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "PPM", "TIFF")
_BYTES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


def decode(pillow, path, mode):
    """uint8 [H, W, C] of an image file, of several frames or pages the first; C: 1 of mode "L", 3 of mode "RGB".

    Pillow takes the upper byte of colours of 16 bits.

    Raises:
        ValueError: grey of 16 bits, floats and whole numbers of 32 bits: no file tells which range of them is black to
            white (cameras put 10 or 12 bits into 16), and a wrong one gives images that are nearly black or white.
        Exception: whatever Pillow raises of a broken file, or one that it takes for a decompression bomb.
    """
    with pillow.open(path, formats=FORMATS) as image:
        if image.mode not in _BYTES:
            raise ValueError(
                f"expected pixels of 8 bits, got {image.format} of mode {image.mode}, whose range the file does not "
                "tell: scale its pixels to bytes, or give a .npz or .safetensors file of floats"
            )
        pixels = numpy.array(image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)
