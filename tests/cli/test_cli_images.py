"""Images of every kind that folders hold: read for what they are, or refused by name."""

import io
import struct
import zlib

import numpy
import pytest
from cli_cases import folder, inside, run  # noqa: F401 (fixtures)
from PIL import Image
from tiny_networks import one_thread  # noqa: F401

from pcsnn.cli import images

GENERATOR = numpy.random.default_rng(0)
DEEP = GENERATOR.integers(0, 65536, (6, 9), dtype=numpy.uint16)
BYTES = GENERATOR.integers(0, 256, (6, 9, 3), dtype=numpy.uint8)
GREY = BYTES[:, :, 0]


def read(path, channels=3):
    source = images.open_images(path, "--data", channels)
    return source.image(0).permute(1, 2, 0).numpy()


def saved(path, image, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path / options.pop("name", "a.png"), **options)
    return path


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, colour, rows, *more):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(more)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


# grey of 16 bits


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "a.tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_of_16_bits_is_refused(tmp_path, name, channels):
    with pytest.raises(ValueError, match=f"--data: cannot read .*{name}: expected pixels of 8 bits, got .* of mode I"):
        read(saved(tmp_path, DEEP, name=name), channels)


def tiff(order, bits=16, interpretation=1):
    """One row of three pixels, 0, 1000 and 65535, in a given order of bytes."""
    tags = [
        (256, 3, 3),
        (257, 3, 1),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, interpretation),
        (273, 4, 200),
        (277, 3, 1),
        (278, 3, 1),
        (279, 4, 6),
    ]
    fields = [struct.pack(f"{order}HHI{'Hxx' if kind == 3 else 'I'}", tag, kind, 1, value) for tag, kind, value in tags]
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(tags)) + b"".join(fields)
    return head.ljust(200, b"\0") + struct.pack(f"{order}3H", 0, 1000, 65535)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "options", [{}, {"bits": 12}, {"interpretation": 0}], ids=["plain", "12 bits", "white is zero"]
)
def test_tiffs_of_many_bits_are_refused(tmp_path, options, order):
    (tmp_path / "a.tif").write_bytes(tiff(order, **options))
    with pytest.raises(
        ValueError, match="--data: cannot read .*a.tif: (expected pixels of 8 bits|cannot identify image)"
    ):
        read(tmp_path, 1)


@pytest.mark.parametrize(
    "colour, rows, expected",
    [
        (2, b"\0" + bytes.fromhex("ff00 80ff 0001"), [255, 128, 0]),
        (6, b"\0" + bytes.fromhex("ff00 80ff 0001 ffff"), [255, 128, 0]),
        (4, b"\0" + bytes.fromhex("80ff ffff"), [128] * 3),
    ],
    ids=["RGB", "RGBA", "LA"],
)
def test_colours_of_16_bits_keep_their_upper_byte(tmp_path, colour, rows, expected):
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, colour, rows))
    assert read(tmp_path).ravel().tolist() == expected


@pytest.mark.parametrize(
    "pixels",
    [
        GENERATOR.random((6, 9), dtype=numpy.float32),
        GENERATOR.integers(0, 65536, (6, 9), dtype=numpy.int32),
        255 * GENERATOR.random((6, 9), dtype=numpy.float32),
    ],
    ids=["0..1", "int32", "0..255"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_and_32_bits_are_refused(tmp_path, pixels, channels):
    saved(tmp_path, pixels, name="a.tiff")
    with pytest.raises(ValueError, match="--data: cannot read .*: expected pixels of 8 bits, got TIFF of mode [IF]"):
        read(tmp_path, channels)


# 8 bits


@pytest.mark.parametrize(
    "mode, name",
    [
        ("1", "a.png"),
        ("L", "a.png"),
        ("P", "a.gif"),
        ("RGB", "a.bmp"),
        ("RGB", "a.webp"),
        ("RGB", "a.ppm"),
        ("RGBA", "a.png"),
        ("LA", "a.png"),
        ("CMYK", "a.jpg"),
        ("CMYK", "a.tif"),
        ("YCbCr", "a.jpg"),
        ("P", "a.png"),
        ("L", "a.jpeg"),
        ("RGBA", "A.TIFF"),
    ],
)
def test_modes_of_8_bits(tmp_path, mode, name):
    saved(tmp_path, Image.fromarray(BYTES).convert(mode), name=name)
    with Image.open(tmp_path / name) as image:
        for channels, kind in ((1, "L"), (3, "RGB")):
            assert (read(tmp_path, channels).squeeze() == numpy.array(image.convert(kind))).all()


def test_two_bits(tmp_path):
    (tmp_path / "a.png").write_bytes(png(4, 1, 2, 0, b"\0" + bytes([0b00011011])))
    assert read(tmp_path, 1).ravel().tolist() == [0, 85, 170, 255]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_of_several_frames_the_first(tmp_path, name):
    frames = [Image.fromarray(numpy.full((6, 9, 3), value, numpy.uint8)) for value in (255, 0, 128)]
    frames[0].save(
        tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if name == "a.webp" else {})
    )
    assert (read(tmp_path) == 255).all()


def test_metadata_is_not_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    saved(tmp_path, BYTES, exif=exif)
    assert (read(tmp_path) == BYTES).all()


# broken and hostile


def whole():
    stream = io.BytesIO()
    Image.fromarray(BYTES).save(stream, "PNG")
    return stream.getvalue()


BROKEN = {
    "cut": whole()[:-40],
    "header alone": whole()[:20],
    "no image": b"no picture",
    "bomb": png(30000, 30000, 8, 0, bytes(100)),
    "no pixels": png(0, 5, 8, 0, b""),
    "wrong bits": png(3, 3, 77, 0, bytes(100)),
    "few pixels": png(500, 500, 8, 0, bytes(100)),
    "checksum": whole()[:60] + b"\0\1\2\3" + whole()[64:],
    "text bomb": png(1, 1, 8, 0, bytes(2), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))),
    "program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n/Times findfont showpage\n%%EOF\n",
    "negative": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, -5, 5, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(46),
    "deep gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0xF7, 0, 0) + bytes(50),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_images_are_refused_by_name(tmp_path, capsys, kind):
    (tmp_path / "photos").mkdir()
    saved(tmp_path / "photos", BYTES, name="whole.png")
    (tmp_path / "photos" / "a.png").write_bytes(BROKEN[kind])
    assert (
        run(
            "convert",
            "cli_nets:make",
            "--timesteps",
            4,
            "--data",
            tmp_path / "photos",
            "--resize",
            "8x8",
            "--output",
            tmp_path / "o",
        )
        == 1
    )
    told = capsys.readouterr().err
    assert f"pcsnn convert: error: --data: cannot read {tmp_path / 'photos' / 'a.png'}: " in told
    assert "Traceback" not in told
    assert not (tmp_path / "o").exists()


@pytest.mark.filterwarnings("ignore")
def test_damaged_images_are_read_or_refused(tmp_path):
    generator = numpy.random.default_rng(3)
    for name, options in (
        ("a.png", {}),
        ("a.jpg", {}),
        ("a.gif", {}),
        ("a.webp", {}),
        ("a.bmp", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
    ):
        place = tmp_path / name
        place.mkdir()
        saved(place, BYTES, name=name, **options)
        content = (place / name).read_bytes()
        for _ in range(60):
            changed = bytearray(content[: int(generator.integers(1, len(content) + 1))])
            for position in generator.integers(0, len(changed), 4):
                changed[position] = int(generator.integers(0, 256))
            (place / name).write_bytes(changed)
            try:
                assert read(place).dtype == numpy.uint8
            except ValueError as error:
                assert str(error).startswith(f"--data: cannot read {place / name}: ")


def test_an_image_that_resizing_would_blow_up(tmp_path, capsys):
    saved(tmp_path, numpy.zeros((1, 5000, 3), numpy.uint8))
    assert run("convert", "cli_nets:make", "--timesteps", 4, "--data", tmp_path, "--resize", 16384) == 1
    told = capsys.readouterr().err
    assert "--resize: expected images that come to at most" in told and "16384x81920000" in told


@pytest.mark.parametrize(
    "option, value, words",
    [
        ("--resize", "999999999999", "--resize: expected pixels"),
        ("--resize", "²", "--resize: expected pixels"),
        ("--resize", "0x5", "--resize: expected pixels"),
        ("--crop", "20000", "--crop: expected pixels"),
        ("--crop", "1x2x3", "--crop: expected pixels"),
        ("--mean", "nan", "--mean: expected a finite number"),
        ("--std", "inf", "--std: expected a finite number"),
        ("--threads", "1000000", "--threads: expected a whole number in 1..1024"),
        ("--device", "meta", "--device: expected a device like cpu"),
        ("--model-args", "[" * 100000, "--model-args: expected a JSON object"),
        ("--seed", "9" * 5000, "--seed: expected a whole number"),
    ],
)
def test_numbers_that_no_machine_takes(capsys, option, value, words):
    assert run("convert", "cli_nets:make", "--timesteps", 4, "--data", "photos", option, value) == 2
    assert words in (told := capsys.readouterr().err) and "Traceback" not in told
