"""Every kind of JPEG and PNG comes out as the same upright RGB."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import HEIGHT, WIDTH, gradient, png, saved
from PIL import Image

from alexnet_dist.data import decode as decode_module
from alexnet_dist.data.decode import decode, open_image


def pixels(path: Path) -> np.ndarray:
    image = decode(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


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
    code = f"from alexnet_dist.data.decode import decode; print(decode({str(path)!r}).size)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(48, 32)\n", "")


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
        assert abs(difference).mean() < 3  # by a wrong scale or place it would be some 40
    with open_image(saved(tmp_path, full, "a.png")) as picture:
        assert picture.reductions == ()
