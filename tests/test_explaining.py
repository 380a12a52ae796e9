"""Where a network looks, from Python and by alexnet-inference --explain: maps in the picture's pixels, and the drawn sheet."""

import json
import os
import subprocess
import sys

import detector
import numpy as np
import pytest
from PIL import Image, ImageFont
from terminal import run_on_terminal, seen

import alexnet_dist
from alexnet_dist import inference
from alexnet_dist.errors import StorageError, UserError
from alexnet_dist.pictures import sheet
from alexnet_dist.pictures.heat import colours, overlaid
from alexnet_dist.pictures.sheet import LARGE, MARGIN, MOST, SMALL

SIZE = (300, 200)  # pixels, width and height
SQUARES = (("red", 100, 80), ("green", 200, 40))
PLACES = {"red": (96, 116), "green": (56, 216)}  # row and column of their middles
NEAR = 14  # pixels: a place of the last convolution's map is 24 pixels of these pictures


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return detector.save(tmp_path_factory.mktemp("explaining") / "net.safetensors")


@pytest.fixture(scope="module")
def net(weights):
    return alexnet_dist.load(weights, batch_size=8, threads=2)


@pytest.mark.parametrize("by", ["grad-cam", "occlusion"])
def test_each_class_is_found_in_the_pictures_pixels(net, by):
    picture = detector.picture(SIZE, *SQUARES)
    for number, name in enumerate(detector.NAMES):
        heat = net.explain(picture, name, by=by)
        assert heat.shape == (200, 300)
        assert heat.dtype == np.float32
        assert heat.min() >= 0
        assert 0.9 < heat.max() <= 1
        assert detector.hottest(heat) == pytest.approx(PLACES[name], abs=NEAR)
        assert (heat[:, :60] == 0).all(), "this is left of the central crop"
        np.testing.assert_array_equal(net.explain(np.asarray(picture), number, by=by), heat)


def test_by_default_the_most_probable_class_is_explained(net):
    picture = detector.picture(SIZE, ("red", 200, 40), ("green", 100, 80))
    probabilities = net.predict(picture)
    assert net.top(probabilities)[0][0][0] == "green"
    np.testing.assert_array_equal(net.explain(picture), net.explain(picture, "green"))
    assert np.abs(net.explain(picture) - net.explain(picture, "red")).max() > 0.5


def test_a_camera_that_was_held_upright(net, tmp_path):
    """The file's pixels lie on their side; the map is that of the picture as one sees it."""
    picture = detector.picture((200, 300), SQUARES[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.png", exif=exif)
    np.testing.assert_array_equal(net.explain(tmp_path / "1.png"), net.explain(picture))
    assert net.explain(picture).shape == (300, 200)


@pytest.mark.parametrize(
    ("image", "options", "error", "words"),
    [
        ("gone.png", {}, UserError, "gone.png is missing"),
        (Image.new("RGB", (5, 5)), {"label": "blue"}, ValueError, "'blue'"),
        (Image.new("RGB", (5, 5)), {"label": 2}, ValueError, "2"),
        (Image.new("RGB", (5, 5)), {"by": "guessing"}, ValueError, "grad-cam, occlusion"),
        (Image.new("RGB", (1, 400_000)), {}, UserError, "too thin"),
    ],
)
def test_what_cannot_be_explained(net, image, options, error, words):
    with pytest.raises(error, match=words):
        net.explain(image, **options)


def test_colours():
    heat = np.array([[0, 0.5, 1]], np.float32)
    shades = np.asarray(colours(heat)).astype(int)
    assert shades[0, 0, 3] == 0  # nothing over what says nothing
    lightness = shades[0, :, :3] @ (0.3, 0.6, 0.1)
    assert (np.diff(lightness) > 20).all()
    picture = Image.new("RGB", (3, 1), (10, 20, 30))
    drawn = np.asarray(overlaid(picture, heat))
    assert drawn[0, 0].tolist() == [18, 18, 18]
    assert drawn[0, 2, 0] > 150


# alexnet-inference --explain


@pytest.fixture
def album(tmp_path):
    for number in range(4):
        detector.picture(SIZE, SQUARES[number % 2]).save(tmp_path / f"{number}.png")
    return tmp_path


def run(weights, *flags):
    return inference.main(["--load", str(weights), "--threads", "1", *map(str, flags)])


def test_one_image_is_drawn_beside_its_map(weights, net, album, capsys):
    output = album / "drawn" / "out.png"
    assert run(weights, "--input", album / "0.png", "--explain", output) == 0
    assert f"{output}: where the network has looked (grad-cam) in 1 image" in capsys.readouterr().out
    drawn = np.asarray(Image.open(output)).astype(int)
    width, height = LARGE, round(LARGE * 200 / 300)
    left = drawn[MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    right = drawn[MARGIN : MARGIN + height, MARGIN + width + 4 : MARGIN + 2 * width + 4]
    changed = np.abs(left - right).sum(axis=2)
    row, column = detector.hottest(changed * (left[..., 0] < 200))  # around the square, which is as bright as the map
    assert (row * 200 / height, column * 300 / width) == pytest.approx(PLACES["red"], abs=30)
    assert (drawn[MARGIN + height + 5 :, MARGIN : MARGIN + 200] < 100).any(), "there are words below"
    assert [path.name for path in output.parent.iterdir()] == ["out.png"]


def test_a_contact_sheet_of_some_images(weights, album, capsys, monkeypatch):
    (album / "bad.png").write_text("no image")
    output = album / "out.png"
    flags = ["--input", album, "--explain", output, "--explain-by", "occlusion", "--json"]
    monkeypatch.setattr(inference, "MOST", 2)
    assert run(weights, *flags) == 2  # for the one that can't be read
    told = capsys.readouterr()
    assert [json.loads(line)["predictions"][0]["class"] for line in told.out.splitlines()] == ["red", "green"] * 2
    assert f"{output}: where the network has looked (occlusion) in the first 2 of 4 images" in told.err
    width, _ = Image.open(output).size
    assert width == 2 * (2 * SMALL + 4 + MARGIN) + MARGIN
    assert MOST >= 48


def test_the_sheet_is_written_though_nobody_reads_the_results(weights, album):
    """As with `| head -1`."""
    command = [sys.executable, "-m", "alexnet_dist.inference", "--load", weights, "--input", album / "0.png"]
    reading, writing = os.pipe()
    os.close(reading)
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}  # else a few lines are written at the very end
    done = subprocess.run(
        [*command, "--explain", album / "out.png"], stdout=writing, stderr=subprocess.PIPE, env=env, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert Image.open(album / "out.png").width == 2 * LARGE + 4 + 2 * MARGIN


def test_the_results_are_told_though_the_sheet_fails(weights, album, capsys, monkeypatch):
    def full(_):
        raise StorageError("the disk is full")

    monkeypatch.setattr(inference, "sheet", full)
    assert run(weights, "--input", album, "--explain", album / "out.png", "--json") == 74
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 4
    assert "the disk is full" in told.err
    assert not (album / "out.png").exists()


@pytest.mark.parametrize("explain", [False, True])
def test_a_bar_on_the_terminal_of_the_results(weights, album, explain):
    flags = ["--load", weights, "--input", album, "--topk", 1, *["--explain", album / "out.png"] * explain]
    shown, _ = run_on_terminal([sys.executable, "-m", "alexnet_dist.inference", *flags])
    assert b"images" in shown
    assert b"/4" in shown
    lines = "".join(seen(shown))  # paths may be longer than a line
    places = [lines.index(f"{album / name}.png") for name in "0123"]
    assert places == sorted(places)
    assert ("out.png: where" in lines) == explain
    assert lines.count("  red") == lines.count("  green") == 2
    assert "/4" not in lines


@pytest.fixture
def drawn():
    """A function that draws words below a picture; fonts are looked for anew."""
    sheet._letters.cache_clear()
    yield lambda words: sheet.sheet([sheet.Entry(*(2 * [Image.new("RGB", (9, 9))]), "title", words)]).tobytes()
    sheet._letters.cache_clear()


def test_letters_outside_of_ascii_are_drawn(drawn):
    accented, box, plain = (drawn(f"caf{letter}") for letter in ("\u00e9", "\ue000", "e"))
    if sheet._letters()[1] is str:  # a font of the system
        assert len({accented, box, plain}) == 3
    else:
        assert accented == plain != box


def test_what_separates_lines_is_drawn_too(drawn):
    for separator in "\n\r\x85\x1c\u2029":
        assert drawn(f"a{separator}b")


def test_without_a_font_of_the_system_accents_are_left_out(drawn, monkeypatch):
    monkeypatch.setattr(sheet, "FONTS", ("none.ttf",))
    assert drawn("Caf\u00e9 cafe\u0301 na\u00efve \u2460 \u65e5\u672c") == drawn("Cafe cafe naive 1 ??")
    assert drawn("caf\u00e9") != drawn("caf")


def test_the_first_font_that_is_installed_is_taken(drawn, monkeypatch):
    font = ImageFont.load_default(40)

    def truetype(name, size, **layout):
        if name == sheet.FONTS[0]:
            raise OSError("cannot open resource")
        return font

    monkeypatch.setattr(ImageFont, "truetype", truetype)
    assert sheet._letters() == (font, str)


def test_classes_in_another_order(weights, album, capsys):
    """The list's first class is the network's second one: what is drawn is what is told."""
    (album / "order.txt").write_text("\n".join(detector.NAMES[::-1]))
    drawn = []
    for flags in ([], ["--class-names", album / "order.txt"]):
        assert run(weights, "--input", album / "1.png", "--explain", album / "out.png", *flags, "--topk", 1) == 0
        assert "green" in capsys.readouterr().out
        drawn.append(np.asarray(Image.open(album / "out.png")))
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--explain-by", "occlusion"], "--explain FILE.png"),
        (["--explain", "out.png", "--ten-crop"], "--ten-crop"),
        (["--explain", "out.png", "--features", "fc7", "--output", "f.npy"], "--features"),
        (["--explain", "out.jpg"], "out.jpg must end in .png"),
        (["--explain", "/dev/null/out.png"], "cannot write"),
        (["--explain", "out.png", "--explain-by", "guessing"], "guessing"),
    ],
)
def test_mistakes(weights, album, capsys, flags, words):
    assert run(weights, "--input", album, *flags) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == ""


def test_nothing_readable_to_explain(weights, tmp_path, capsys):
    (tmp_path / "0.png").write_text("no image")
    assert run(weights, "--input", tmp_path, "--explain", tmp_path / "out.png") == 2
    assert "out.png is not written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]
