"""What alexnet-serve answers: classes and maps for images, sentences for what is none, and nothing for other sites."""

import base64
from io import BytesIO

import detector
import numpy as np
import pytest
from PIL import Image
from served import RED, SIZE, encoded

import alexnet_dist

PLACE = (RED[1] + detector.SQUARE / 2, RED[2] + detector.SQUARE / 2)  # x and y in pixels


def test_classes_are_those_of_the_predictor(server, weights, picture):
    status, headers, answer = server.ask(body=encoded(picture))
    assert status == 200
    assert set(answer) == {"predictions", "seconds", "width", "height"}
    expected = alexnet_dist.load(weights, threads=1).predict(picture)[0]
    assert [entry["class"] for entry in answer["predictions"]] == ["red", "green"]
    for entry in answer["predictions"]:
        assert entry["probability"] == pytest.approx(expected[entry["class_id"]], abs=1e-5)
    assert (answer["width"], answer["height"]) == SIZE
    assert answer["seconds"] > 0
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_so_many_classes_as_wanted(server, picture):
    for wanted, count in (("1", 1), ("2", 2), ("500", 2)):
        status, _, answer = server.ask(path=f"/predict?topk={wanted}", body=encoded(picture))
        assert (status, len(answer["predictions"])) == (200, count)


def test_the_map_lies_over_the_whole_image(server, picture):
    _, _, answer = server.ask(path="/predict?explain=grad-cam", body=encoded(picture, "JPEG", quality=95))
    drawn = answer["map"]
    assert drawn["by"] == "grad-cam"
    assert (drawn["x"] * SIZE[0], drawn["y"] * SIZE[1]) == pytest.approx(PLACE, abs=20)
    kind, _, content = drawn["png"].partition(",")
    assert kind == "data:image/png;base64"
    png = Image.open(BytesIO(base64.b64decode(content)))
    assert png.mode == "RGBA"
    assert png.width / png.height == pytest.approx(SIZE[0] / SIZE[1], rel=0.02)
    opacity = np.asarray(png)[..., 3].astype(float)
    scale = SIZE[0] / png.width
    row, column = detector.hottest(opacity)
    assert (column * scale, row * scale) == pytest.approx(PLACE, abs=14)
    assert (opacity[:, :10] == 0).all()  # outside of the central square


def test_a_picture_that_stands_on_its_side(server):
    exif = Image.Exif()
    exif[0x0112] = 6
    status, _, answer = server.ask(body=encoded(detector.picture(SIZE, RED), "JPEG", exif=exif))
    assert (status, answer["width"], answer["height"]) == (200, SIZE[1], SIZE[0])


def huge():
    """90 kB that claim 10^8 pixels and one row more."""
    return encoded(Image.new("1", (10_000, 10_001)))


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "no image in the request"),
        (b"GIF89a" + bytes(100), 415, "not a JPEG or PNG"),
        (b"--x\r\nContent-Disposition: form-data", 415, "curl --data-binary"),
        (b"\xff\xd8\xff", 400, "image"),
        (cut(encoded(detector.picture((400, 400)), "JPEG")), 400, "truncated"),
        (bytes(1_000_001), 413, "larger than 1 MB"),
        (bytes(7_000_000), 413, "larger than 1 MB"),
        (huge(), 413, "100010000 pixels"),
        (encoded(Image.new("1", (1, 500_000))), 400, "too thin"),
    ],
    ids=["empty", "gif", "form", "header", "cut", "large", "larger", "pixels", "thin"],
)
def test_what_is_no_image(server, picture, body, status, words):
    for path in ("/predict", "/predict?explain=grad-cam"):
        code, _, answer = server.ask(path=path, body=body)
        assert code == status
        assert words in answer["error"]
        assert answer["error"].endswith((".", "jpg"))
    assert server.ask(body=encoded(picture))[0] == 200  # it goes on


def test_a_body_without_a_length_has_the_same_limit(server, picture):
    parts = [bytes(100_000)] * 11
    code, _, answer = server.ask(body=iter(parts))
    assert (code, "larger than 1 MB" in answer["error"]) == (413, True)
    assert server.ask(body=iter([encoded(picture)]))[0] == 200


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/predict?topk=0", "topk is '0'"),
        ("/predict?topk=many", "topk is 'many'"),
        ("/predict?explain=occlusion", "must be grad-cam"),
    ],
)
def test_wrong_options(server, picture, path, words):
    code, _, answer = server.ask(path=path, body=encoded(picture))
    assert code == 400
    assert words in answer["error"]


def test_other_methods_and_places(server):
    code, headers, answer = server.ask("GET", "/predict")
    assert (code, headers["allow"]) == (405, "POST")
    assert "curl" in answer["error"]
    for path in ("/nothing", "/../app.py", "/%2e%2e/app.py"):
        code, _, answer = server.ask("GET", path)
        assert code == 404
        assert answer["error"]


def test_health(server, weights):
    assert server.ask("GET", "/health")[2] == {
        "status": "ok",
        "model": weights.name,
        "classes": 2,
        "waiting": 0,
        "most_bytes": 1_000_000,
    }


def test_the_page_and_its_files(server):
    for path, kind in (("/", "text/html"), ("/page.js", "javascript"), ("/page.css", "text/css"), ("/icon.svg", "svg")):
        code, headers, content = server.ask("GET", path)
        assert code == 200
        assert kind in headers["content-type"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert b"http" not in content.replace(b"http://www.w3.org/2000/svg", b""), "nothing comes from elsewhere"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "localhost:1234"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "127.8.9.1:80"}, 200),
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Host": "["}, 400),
        ({"Host": ""}, 400),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
    ids=str,
)
def test_who_is_answered(server, picture, headers, code):
    for method, path in (("GET", "/health"), ("POST", "/predict"), ("GET", "/")):
        status, answered, answer = server.ask(method, path, encoded(picture) if method == "POST" else None, headers)
        assert status == code
        assert "access-control-allow-origin" not in answered
        assert code == 200 or answer["error"]
