"""Every kind of JPEG and PNG comes out as the same upright RGB; every bad file is an ImageError that says why."""

import os
import resource
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_dist.data import decode as decode_module
from alexnet_dist.data.decode import ImageError, decode, open_image

WIDTH, HEIGHT = 48, 32


def gradient() -> np.ndarray:
    """uint8 [HEIGHT, WIDTH, 3], smooth, so that JPEG keeps it, and without symmetry."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 5, y * 7, 40 + x * 2 + y], axis=-1).astype(np.uint8)


def pixels(path: Path) -> np.ndarray:
    image = decode(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def saved(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def png(
    folder: Path, width: int, height: int, depth: int, color: int, data: bytes, *chunks: tuple[bytes, bytes]
) -> Path:
    """A PNG file put together by hand, for the kinds that Pillow doesn't write."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data, 1)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(text)) + kind + text + struct.pack(">I", zlib.crc32(kind + text)) for kind, text in parts
    )
    path = folder / "made.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_rgb_png_is_exact_and_jpeg_is_close(tmp_path):
    image = Image.fromarray(gradient())
    np.testing.assert_array_equal(pixels(saved(tmp_path, image, "a.png")), gradient())
    for options in ({}, {"progressive": True}, {"subsampling": 0}):
        difference = pixels(saved(tmp_path, image, "a.jpg", quality=95, **options)) - gradient()
        assert abs(difference).max() < 12


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("1", "a.png"), ("L", "a.jpg")])
def test_grey_becomes_three_equal_channels(tmp_path, mode, name):
    grey = Image.fromarray(gradient()).convert(mode)
    expected = np.asarray(grey.convert("L")).astype(int)
    result = pixels(saved(tmp_path, grey, name, quality=100))
    assert abs(result - expected[..., None]).max() <= (2 if name.endswith("jpg") else 0)


def test_palette(tmp_path):
    image = Image.fromarray(gradient()).quantize(16)
    np.testing.assert_array_equal(pixels(saved(tmp_path, image, "a.png")), np.asarray(image.convert("RGB")))


def test_transparent_palette_entry_lies_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    result = pixels(saved(tmp_path, image, "a.png", transparency=0))
    assert result.tolist() == [[[255, 255, 255], [40, 50, 60]]]
    result = pixels(saved(tmp_path, image, "b.png", transparency=bytes([255, 51])))
    assert result[0, 0].tolist() == [10, 20, 30]
    assert abs(result[0, 1] - [212, 214, 216]).max() <= 1  # 20 % of the colour, 80 % white


def test_alpha_is_blended_with_white(tmp_path):
    rgba = Image.new("RGBA", (3, 1), (100, 0, 200, 255))
    rgba.putpixel((1, 0), (100, 0, 200, 0))
    rgba.putpixel((2, 0), (100, 0, 200, 51))
    expected = [[100, 0, 200], [255, 255, 255], [224, 204, 244]]
    assert abs(pixels(saved(tmp_path, rgba, "a.png"))[0] - expected).max() <= 1
    la = Image.new("LA", (2, 1), (100, 255))
    la.putpixel((1, 0), (100, 0))
    assert pixels(saved(tmp_path, la, "b.png")).tolist() == [[[100] * 3, [255] * 3]]


def test_transparent_colour_of_rgb_and_grey(tmp_path):
    rgb = Image.new("RGB", (2, 1), (1, 2, 3))
    rgb.putpixel((1, 0), (9, 9, 9))
    assert pixels(saved(tmp_path, rgb, "a.png", transparency=(1, 2, 3))).tolist() == [[[255] * 3, [9] * 3]]
    assert pixels(saved(tmp_path, rgb.convert("L"), "b.png", transparency=9)).tolist() == [[[2] * 3, [255] * 3]]


def test_16_bits_are_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 255, 256, 0x7FFF, 0x8000, 0xFFFF]], np.uint16)
    expected = [0, 0, 1, 127, 128, 255]
    assert pixels(saved(tmp_path, Image.fromarray(deep), "a.png"))[0].tolist() == [[value] * 3 for value in expected]
    rows = b"\0" + deep.astype(">u2").tobytes()
    grey = png(tmp_path, 6, 1, 16, 0, rows, (b"tRNS", struct.pack(">H", 256)))
    assert pixels(grey)[0].tolist() == [[value] * 3 for value in (0, 0, 255, 127, 128, 255)]
    colour = png(tmp_path, 1, 1, 16, 2, b"\0" + struct.pack(">HHH", 0x1234, 0x8000, 0xFFFF))
    assert pixels(colour).tolist() == [[[0x12, 0x80, 0xFF]]]
    grey_alpha = png(tmp_path, 2, 1, 16, 4, b"\0" + struct.pack(">HHHH", 0x8000, 0xFFFF, 0x8000, 0))
    assert pixels(grey_alpha).tolist() == [[[0x80] * 3, [255] * 3]]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_every_16_bit_mode_of_pillow(mode):
    values = np.array([[0, 256, 0xFFFF]], {"I;16": "<u2", "I;16B": ">u2", "I": "i4"}[mode])
    image = Image.frombytes(mode, (3, 1), values.tobytes())
    result = decode_module._to_rgb(image)
    assert np.asarray(result)[0, :, 0].tolist() == [0, 1, 255]


def test_cmyk_jpeg(tmp_path):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert abs(pixels(saved(tmp_path, red, "a.jpg", quality=95)) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, name, orientation):
    upright = gradient().astype(int)
    # How a camera stores the picture: which edge of it the first row and the first column are (EXIF 2.32, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(stored.astype(np.uint8))
    path = saved(tmp_path, image, name, exif=exif, quality=95)
    with open_image(path) as picture:
        assert picture.size == (WIDTH, HEIGHT)
    assert pixels(path).shape == upright.shape
    assert abs(pixels(path) - upright).max() < 12


def test_orientation_after_the_pixels_of_a_png(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.fromarray(gradient()), "a.png")
    content = path.read_bytes()
    text = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(text)) + b"eXIf" + text + struct.pack(">I", zlib.crc32(b"eXIf" + text))
    path.write_bytes(content[:-12] + chunk + content[-12:])
    with open_image(path) as picture:
        assert picture.size == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"]
)
def test_broken_exif_does_not_lose_the_picture(tmp_path, exif):
    path = saved(tmp_path, Image.fromarray(gradient()), "a.jpg", exif=exif)
    assert pixels(path).shape == (HEIGHT, WIDTH, 3)


def test_phone_picture_with_a_second_one_inside(tmp_path):
    first, second = Image.fromarray(gradient()), Image.new("RGB", (8, 8))
    path = saved(tmp_path, first, "a.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    assert abs(pixels(path) - gradient()).max() < 12


def test_jpeg_is_reduced_while_decoding(tmp_path):
    path = saved(tmp_path, Image.fromarray(gradient()).resize((401, 203)), "a.jpg", quality=95)
    full = decode(path)
    for reduction in (1, 2, 4, 8):
        with open_image(path) as picture:
            assert reduction in (1, *picture.reductions)
            small = picture.rgb(reduction)
        assert small.size == (-(-401 // reduction), -(-203 // reduction))
        difference = np.asarray(full.resize(small.size, Image.Resampling.BOX)).astype(int) - np.asarray(small)
        assert abs(difference).mean() < 2
    with open_image(saved(tmp_path, full, "a.png")) as picture:
        assert picture.reductions == ()


def reason(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        decode(path)
    assert str(path) not in str(caught.value)  # the caller says which file
    return str(caught.value)


def test_bad_files_and_their_reasons(tmp_path):
    bad = tmp_path / "bad.jpg"
    assert reason(bad) == "is missing"
    assert reason(tmp_path) == "is a folder, not an image"
    bad.write_bytes(b"")
    assert reason(bad) == "is empty (0 bytes)"
    bad.write_text("<html>404 not found</html>")
    assert reason(bad) == "is not a JPEG or PNG image"
    assert reason(bad / "x.jpg") == "is missing"
    assert reason(Path("a\0b")).startswith("is damaged (embedded null byte")
    Image.fromarray(gradient()).save(tmp_path / "a.gif")
    assert reason(tmp_path / "a.gif") == "is not a JPEG or PNG image"


def test_unreadable_file(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(decode_module, "open", refuse, raising=False)
    assert reason(tmp_path / "a.jpg") == "can't be read: Permission denied"


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_truncated_file(tmp_path, name):
    path = saved(tmp_path, Image.effect_noise((200, 200), 50), name)
    content = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        assert reason(path) == "is truncated"


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_file_that_ends_anywhere_in_its_header(tmp_path, name):
    path = saved(tmp_path, Image.fromarray(gradient()), name)
    content = path.read_bytes()
    for length in range(1, 200):
        path.write_bytes(content[:length])
        assert reason(path)


def test_programming_errors_are_not_taken_for_bad_images(tmp_path):
    path = saved(tmp_path, Image.fromarray(gradient()), "a.png")
    with pytest.raises(ZeroDivisionError), open_image(path):
        raise ZeroDivisionError


@pytest.mark.parametrize("side", [20_000, 12_000])  # beyond, and between, the limits at which Pillow raises and warns
def test_huge_image_is_refused_by_its_header(tmp_path, side):
    path = png(tmp_path, side, side, 1, 0, bytes(side * (side // 8 + 1)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(path).startswith(f"has {side * side} pixels, more than 100000000")
    assert time.perf_counter() - start < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes


def test_great_image_below_the_limit_is_read_without_a_warning(tmp_path):
    side = 9_600  # 92 million pixels; Pillow's own warning begins at 89 million
    path = png(tmp_path, side, side, 1, 0, bytes(side * (side // 8 + 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(path).size == (side, side)


def test_files_are_closed(tmp_path):
    good = saved(tmp_path, Image.fromarray(gradient()), "a.jpg")
    bad = tmp_path / "b.jpg"
    bad.write_bytes(good.read_bytes()[:300])
    before = len(os.listdir("/proc/self/fd"))
    kept = []
    for _ in range(10):
        with open_image(good) as picture:  # never decoded
            kept.append(picture)
        with open_image(good) as picture:
            kept.append(picture.rgb())
        with pytest.raises(ImageError) as caught:
            decode(bad)
        kept.append(caught.value)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    image = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        saved(folder, image, "a.jpg", exif=exif).read_bytes(),
        saved(folder, image, "b.jpg", progressive=True).read_bytes(),
        saved(folder, image.convert("CMYK"), "c.jpg").read_bytes(),
        saved(folder, image, "a.png", exif=exif).read_bytes(),
        saved(folder, image.quantize(8), "b.png", transparency=3).read_bytes(),
        saved(folder, image.convert("LA"), "c.png").read_bytes(),
        saved(folder, image, "d.png", save_all=True, append_images=[image.rotate(90)]).read_bytes(),
        saved(folder, Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257), "e.png").read_bytes(),
    ]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 7),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=8), st.integers(0, 8)), max_size=6),
    tail=st.binary(max_size=200),
)
def test_changed_bytes_give_a_picture_or_an_image_error(tmp_path, seeds, which, edits, tail):
    content = bytearray(seeds[which])
    for place, new, removed in edits:
        start = int(place * len(content))
        content[start : start + removed] = new
    path = tmp_path / "fuzzed.jpg"
    path.write_bytes(content + tail)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert decode(path).mode == "RGB"
        except ImageError as error:
            assert 0 < len(str(error)) < 200
            assert "\n" not in str(error)
