"""alexnet-convert: the same network in every format, as torchvision and onnxruntime run it, and what can't be read."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from small import SMALL, images

from alexnet_dist import convert
from alexnet_dist.data.decoded import EvaluationPixels
from alexnet_dist.errors import UserError
from alexnet_dist.kernels.loss import softmax
from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.parameters import initialize
from alexnet_dist.model.predict import mean_over_crops
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.checkpoint import Header
from alexnet_dist.support.threads import Team
from alexnet_dist.weights.formats import FORMATS
from alexnet_dist.weights.onnx_graph import averages

NAMES = ["a", "b, c", "d", "é", "f", "g", "h"]


def saved(path, network=SMALL, names=NAMES, state=False):
    parameters = parameter_map(network)
    flat = np.zeros(parameters.size, np.float32)
    initialize(parameters, flat, "he", seed=0)
    flat += np.random.default_rng(1).normal(0, 0.01, flat.size).astype(np.float32)
    buffers = {"momentum": flat} if state else {}
    checkpoint.save(path, parameters, flat, buffers, Header(network, names, {"step": 1} if state else None))
    return flat


def converted(source, output, *flags):
    assert convert.main([str(source), str(output), *flags]) == 0
    return output


def logits(path, x):
    header, flat = checkpoint.load_weights(path)
    with Team(1) as team:
        return AlexNet(header.network, flat, len(x), team).forward(x).copy()


def run_onnx(path, x):
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"images": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    return result


@pytest.mark.parametrize("suffix", FORMATS)
def test_round_trip_keeps_every_bit(tmp_path, suffix):
    pytest.importorskip({".onnx": "onnx", ".safetensors": "safetensors"}.get(suffix, "torch"))
    # What .pth can't hold, torchvision's network has by default.
    network = Network(num_classes=7, width=1 / 16) if suffix in (".pth", ".pt") else SMALL
    flat = saved(tmp_path / "state.safetensors", network, state=True)
    there = converted(tmp_path / "state.safetensors", tmp_path / f"there{suffix}")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    flags = ["--class-names", str(tmp_path / "names.txt")] if suffix in (".pth", ".pt") else []
    back = converted(there, tmp_path / "back.safetensors", *flags)
    header, again = checkpoint.load_weights(back)
    assert header == Header(network, NAMES)
    np.testing.assert_array_equal(again, flat)


def test_what_pth_cannot_hold_is_said(tmp_path, capsys):
    pytest.importorskip("torch")
    saved(tmp_path / "in.safetensors", Network(num_classes=7, image_size=99, width=1 / 16, interpolation="bicubic"))
    converted(tmp_path / "in.safetensors", tmp_path / "out.pth")
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("7 classes without names")
    assert second == "  it holds weights alone: image size 99, bicubic interpolation, class names are left out"
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    converted(tmp_path / "out.pth", tmp_path / "back.safetensors", "--class-names", str(tmp_path / "names.txt"))
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("7 classes with names")
    assert second == f"  {tmp_path}/out.pth holds weights alone: image size 224, bilinear interpolation are assumed"


@pytest.mark.parametrize(
    "size", [67, 99, 224, 300]
)  # whose maps are averaged up and down to 6 x 6, or are that already
def test_onnx_computes_our_logits_for_any_batch(tmp_path, size):
    onnx = pytest.importorskip("onnx")
    network = Network(num_classes=7, image_size=size, width=1 / 16)
    saved(tmp_path / "in.safetensors", network)
    path = converted(tmp_path / "in.safetensors", tmp_path / "out.onnx")
    for count in (1, 3):
        x, _ = images(network, count)
        np.testing.assert_allclose(run_onnx(path, x), logits(tmp_path / "in.safetensors", x), rtol=0, atol=1e-4)
    properties = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert json.loads(properties["class_names"]) == NAMES
    assert json.loads(properties["mean"]) == [0.485, 0.456, 0.406]


@pytest.fixture(scope="module")
def torchvisions(tmp_path_factory):
    """A folder with torchvision's network in every format, and the network itself."""
    torch, models = pytest.importorskip("torch"), pytest.importorskip("torchvision.models")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    net, folder = models.alexnet().eval(), tmp_path_factory.mktemp("torchvision")
    torch.save(net.state_dict(), folder / "in.pth")
    for source, output in (("in.pth", "a.safetensors"), ("a.safetensors", "b.onnx"), ("b.onnx", "c.safetensors")):
        converted(folder / source, folder / output)
    return folder, net


@pytest.mark.parametrize("ten_crop", [False, True])
def test_logits_are_those_of_torchvisions_pipeline(torchvisions, tmp_path, ten_crop):
    torch, transforms = pytest.importorskip("torch"), pytest.importorskip("torchvision.transforms")
    folder, net = torchvisions
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (260, 300, 3), np.uint8)).save(tmp_path / "x.png")
    steps = [transforms.Resize(256), transforms.TenCrop(224) if ten_crop else transforms.CenterCrop(224)]
    with Image.open(tmp_path / "x.png") as picture:
        crops = transforms.Compose(steps)(picture)
    normalise = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )
    with torch.no_grad():
        theirs = net(torch.stack([normalise(crop) for crop in (crops if ten_crop else [crops])])).numpy()
    pixels = EvaluationPixels(224, "bilinear", ten_crop)
    row = np.empty(pixels.row, np.float32)
    pixels.load(tmp_path / "x.png", row)
    x = row.reshape(-1, *pixels.shape)
    for ours in (
        logits(folder / "a.safetensors", x),
        logits(folder / "c.safetensors", x),
        run_onnx(folder / "b.onnx", x),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
        mean = softmax(mean_over_crops(ours, pixels.crops))[0]
        np.testing.assert_allclose(mean, torch.tensor(theirs).softmax(1).mean(0).numpy(), rtol=0, atol=1e-6)


def test_torchvision_loads_what_is_written(torchvisions):
    torch, models = pytest.importorskip("torch"), pytest.importorskip("torchvision.models")
    folder, net = torchvisions
    state = torch.load(converted(folder / "a.safetensors", folder / "d.pth"), weights_only=True)
    models.alexnet().load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_reads_checkpoints_of_training_scripts(tmp_path):
    torch = pytest.importorskip("torch")
    flat = saved(tmp_path / "in.safetensors", Network(num_classes=7, width=1 / 16))
    state = torch.load(converted(tmp_path / "in.safetensors", tmp_path / "plain.pth"), weights_only=True)
    wrapped = {name.replace("features.", "features.module."): value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "examples.pth")
    back = converted(tmp_path / "examples.pth", tmp_path / "back.safetensors")
    np.testing.assert_array_equal(checkpoint.load_weights(back)[1], flat)


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": Harmful()}, "torch.save(model.state_dict(), file)"),
        ([1, 2], "no state_dict"),
        ({"other.weight": 1.0}, "no state_dict"),
    ],
)
def test_a_pth_that_is_no_state_dict(tmp_path, capsys, content, words):
    pytest.importorskip("torch").save(content, tmp_path / "in.pth")
    assert convert.main([str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors")]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert "executed" not in out
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(("suffix", "package"), [(".pth", "torch"), (".onnx", "onnx")])
def test_a_missing_package_is_named_with_its_command(tmp_path, capsys, monkeypatch, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    saved(tmp_path / "in.safetensors")
    for source, output in ((f"in{suffix}", "out.safetensors"), ("in.safetensors", f"out{suffix}")):
        assert convert.main([str(tmp_path / source), str(tmp_path / output)]) == 2
        assert "pip install" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "output", "words"),
    [
        ("in.safetensors", "out.h5", ("out.h5", ".onnx")),
        ("gone.onnx", "out.safetensors", ("gone.onnx", "does not exist")),
        ("broken.onnx", "out.safetensors", ("broken.onnx", "not a whole ONNX file")),
    ],
)
def test_files_that_cannot_be_converted(tmp_path, capsys, source, output, words):
    pytest.importorskip("onnx")
    saved(tmp_path / "in.safetensors")
    (tmp_path / "broken.onnx").write_bytes(b"\xff\xfe broken")
    assert convert.main([str(tmp_path / source), str(tmp_path / output)]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words), err


def test_an_onnx_file_of_another_network(tmp_path):
    onnx = pytest.importorskip("onnx")
    saved(tmp_path / "in.safetensors")
    path = converted(tmp_path / "in.safetensors", tmp_path / "out.onnx")
    model = onnx.load(path)
    del model.graph.initializer[0]
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"features\.0\.weight is missing"):
        FORMATS[".onnx"].read(path)


def test_load_says_how_to_convert(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"alexnet-convert .*x\.pth .*x\.safetensors"):
        checkpoint.load_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("extent", [1, 5, 6, 7, 8, 13])
def test_averages_are_pytorchs(extent):
    functional = pytest.importorskip("torch.nn.functional")
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((1, 1, extent), np.float32)
    np.testing.assert_allclose(
        averages(extent, 6) @ x[0, 0], functional.adaptive_avg_pool1d(torch.tensor(x), 6)[0, 0].numpy(), rtol=1e-6
    )
