"""alexnet_dist.load: classes and features of paths, arrays and Pillow's images; and the same by alexnet-inference."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from small import SMALL
from threadpoolctl import threadpool_info
from whole import forward64

import alexnet_dist
from alexnet_dist import inference
from alexnet_dist.data.augment import load_for_evaluation, load_ten_crops_for_evaluation
from alexnet_dist.errors import UserError
from alexnet_dist.kernels.loss import softmax
from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.parameters import initialize
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.checkpoint import Header
from alexnet_dist.support.threads import Team

NAMES = ["a", "b", "c", "d", "e", "f", "g"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights, and five images in folders and hidden ones."""
    folder = tmp_path_factory.mktemp("predictor")
    parameters = parameter_map(SMALL)
    flat = np.zeros(parameters.size, np.float32)
    initialize(parameters, flat, "he", seed=0)
    flat *= 3  # so that probabilities differ
    checkpoint.save(folder / "net.safetensors", parameters, flat, {}, Header(SMALL, NAMES))
    rng = np.random.default_rng(0)
    for name in ("b/1.png", "b/deep/2.PNG", "a.png", "c.png", "d.png", "b/.hidden.png", ".hidden/x.png"):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def paths(folder):
    return [folder / "images" / name for name in ("a.png", "c.png", "d.png", "b/1.png", "b/deep/2.PNG")]


@pytest.fixture(scope="module")
def net(folder):
    return alexnet_dist.load(folder / "net.safetensors", batch_size=2, threads=2)


@pytest.fixture(scope="module")
def logits64(folder, paths):
    """In float64, from what evaluation loads."""
    x = np.empty((len(paths), 67, 67, 3), np.float32)
    for path, row in zip(paths, x, strict=True):
        load_for_evaluation(path, 67, row)
    header, flat = checkpoint.load_weights(folder / "net.safetensors")
    with Team(1) as team:
        return forward64(AlexNet(header.network, flat, 1, team), flat.astype(np.float64), x)


def test_probabilities(net, paths, logits64):
    probabilities = net.predict(paths)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, softmax(logits64), rtol=0, atol=1e-5)
    assert net.class_names == NAMES
    for told, row in zip(net.top(probabilities, 2), softmax(logits64), strict=True):
        best = np.argsort(-row)[:2]
        assert [name for name, _ in told] == [NAMES[index] for index in best]
        assert [probability for _, probability in told] == pytest.approx(row[best], abs=1e-5)


def test_paths_arrays_and_pictures_are_the_same(net, paths):
    arrays = [np.asarray(Image.open(path)) for path in paths]
    expected = net.predict(paths)
    for images in (list(map(str, paths)), arrays, np.stack(arrays), [Image.open(path) for path in paths]):
        np.testing.assert_array_equal(net.predict(images), expected)
    for one in (paths[0], str(paths[0]), arrays[0], Image.open(paths[0])):
        np.testing.assert_allclose(net.predict(one), expected[:1], rtol=1e-5)


def test_pictures_of_any_kind(net, paths):
    grey = Image.open(paths[0]).convert("L")
    np.testing.assert_array_equal(net.predict(grey), net.predict(np.stack([np.asarray(grey)] * 3, axis=-1)))


def test_ten_crops(net, paths):
    crops = np.empty((10, 67, 67, 3), np.float32)
    load_ten_crops_for_evaluation(paths[0], 67, crops)
    with Team(1) as team:
        _, flat = checkpoint.load_weights(paths[0].parent.parent / "net.safetensors")
        each = softmax(AlexNet(SMALL, flat, 10, team).forward(crops).astype(np.float64))
    np.testing.assert_allclose(net.predict(paths[:2], ten_crop=True)[0], each.mean(axis=0), rtol=0, atol=1e-6)


def test_features(net, folder, paths, logits64):
    shapes = {"pool5": (5, 16, 6, 6), "fc6": (5, 256), "fc7": (5, 256), "fc8": (5, 7)}
    layers = {name: net.features(paths, name) for name in shapes}
    assert {name: layer.shape for name, layer in layers.items()} == shapes
    assert all(layer.dtype == np.float32 and layer.flags.c_contiguous for layer in layers.values())
    np.testing.assert_allclose(layers["fc8"], logits64, rtol=0, atol=1e-4 * abs(logits64).max())
    # Each layer from the one before it, with torchvision's weights and order of axes.
    from safetensors.numpy import load_file

    weights = load_file(folder / "net.safetensors")
    value = layers["pool5"].reshape(5, -1).astype(np.float64)
    for name, key in (("fc6", "classifier.1"), ("fc7", "classifier.4"), ("fc8", "classifier.6")):
        value = value @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]
        value = value if name == "fc8" else np.maximum(value, 0)
        np.testing.assert_allclose(layers[name], value, rtol=0, atol=1e-4 * abs(value).max())
    assert (layers["pool5"] >= 0).all()


def test_no_images(net):
    assert net.predict([]).shape == (0, 7)
    assert net.features([], "pool5").shape == (0, 16, 6, 6)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        ("gone.png", UserError, "gone.png is missing"),
        (np.zeros((5, 5, 3)), ValueError, "float64"),
        ([np.zeros((5, 5), np.uint8)], ValueError, r"\(5, 5\)"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, "height"),
    ],
)
def test_images_that_cannot_be_used(net, images, error, words):
    with pytest.raises(error, match=words):
        net.predict(images)


def test_a_wrong_layer_or_file(net, paths, tmp_path):
    with pytest.raises(ValueError, match="conv9"):
        net.features(paths, "conv9")
    with pytest.raises(UserError, match="does not exist"):
        alexnet_dist.load(tmp_path / "gone.safetensors")


def test_blas_has_its_threads_between_calls(net, paths):
    before = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    net.predict(paths[0])
    assert [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"] == before


def test_threads_take_turns_and_end_with_the_object(folder, paths):
    running = threading.active_count()
    net = alexnet_dist.load(folder / "net.safetensors", batch_size=3, threads=2)
    expected = net.predict(paths)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(result, expected) for result in pool.map(net.predict, [paths] * 4))
    team = [thread for thread in threading.enumerate() if thread.name == "team-1"]
    del net, pool
    for thread in team[-1:]:
        thread.join(20)
        assert not thread.is_alive()
    assert threading.active_count() <= running


def test_import_is_cheap():
    code = "import sys, alexnet_dist; sys.exit(bool({'numpy', 'PIL', 'mpi4py'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# alexnet-inference


def run(folder, *flags):
    return inference.main(["--load", str(folder / "net.safetensors"), "--threads", "1", *map(str, flags)])


def test_features_to_a_file(net, folder, paths, tmp_path, capsys):
    (tmp_path / "0.png").write_text("no image")
    code = run(
        folder, "--input", tmp_path, folder / "images", "--features", "fc7", "--output", tmp_path / "x" / "f.npy"
    )
    assert code == 2  # for the broken image, which has no row
    assert "0.png: is not a JPEG or PNG image" in capsys.readouterr().err
    named = (tmp_path / "x" / "f.txt").read_text().splitlines()
    assert named == [str(path) for path in paths]  # hidden ones left out, folders below taken
    features = net.features(paths)
    np.testing.assert_allclose(np.load(tmp_path / "x" / "f.npy"), features, rtol=0, atol=1e-5 * features.max())
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["f.npy", "f.txt"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--features", "fc7"], "--output"),
        (["--output", "f.npy"], "--features"),
        (["--features", "fc7", "--output", "f.csv"], ".npy"),
        (["--features", "fc7", "--output", "f.npy", "--ten-crop"], "--ten-crop"),
    ],
)
def test_features_with_a_mistake(folder, capsys, flags, words):
    assert run(folder, "--input", folder / "images", *flags) == 2
    assert words in capsys.readouterr().err


def test_features_of_nothing_readable(folder, tmp_path, capsys):
    (tmp_path / "0.png").write_text("no image")
    assert run(folder, "--input", tmp_path, "--features", "fc7", "--output", tmp_path / "f.npy") == 2
    assert "none of the images" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]


def test_class_names_are_matched(folder, paths, tmp_path, capsys):
    def told(*flags):
        assert run(folder, "--input", paths[0], "--topk", 7, *flags) == 0
        lines = capsys.readouterr().out.splitlines()[1:]
        return dict(line.split()[::-1] for line in lines)

    plain = told()
    (tmp_path / "order").write_text("\n".join(NAMES[::-1]))
    assert told("--class-names", tmp_path / "order") == plain
    by_number = told("--class-names", tmp_path / "order", "--ignore-class-names")
    assert by_number == {NAMES[::-1][NAMES.index(name)]: share for name, share in plain.items()}
    (tmp_path / "others").write_text("\n".join(["x", *NAMES[1:]]))
    assert run(folder, "--input", paths[0], "--class-names", tmp_path / "others") == 2
    err = capsys.readouterr().err
    assert "only there: 'a'; only here: 'x'" in err
    assert "--ignore-class-names" in err
