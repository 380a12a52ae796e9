"""Whatever is wrong with a file is an ImageError that says why, soon and without eating the memory."""

import os
import re
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import gradient, png, saved
from PIL import Image

from alexnet_dist.data import decode as decode_module
from alexnet_dist.data.decode import ImageError, decode, open_image


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
    assert re.match(r"is damaged \(.*embedded null", reason(Path("a\0b")))  # Pythons differ in the rest
    Image.fromarray(gradient()).save(tmp_path / "a.gif")
    assert reason(tmp_path / "a.gif") == "is not a JPEG or PNG image"


def test_unreadable_file(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(decode_module, "open_regular", refuse)
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
    for length in range(1, min(200, len(content) - 20)):  # a PNG without its last checksum is whole enough
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
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(path).startswith(f"has {side * side} pixels, more than 100000000")
    assert time.process_time() - start < 0.5
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


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
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
            text = str(error)
        else:
            text = "a picture"
    assert 0 < len(text) < 200
    assert "\n" not in text
