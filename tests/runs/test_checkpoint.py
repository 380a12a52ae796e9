"""Checkpoints: round trips, torchvision's parameters, and every kind of wrong file."""

import json
import os
import stat
import tracemalloc
from dataclasses import asdict

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small import SMALL

from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.checkpoint import Header


@pytest.fixture
def parameters():
    return parameter_map(SMALL)


@pytest.fixture
def flats(parameters, rng):
    return [rng.standard_normal(parameters.size).astype(np.float32) for _ in range(2)]


@pytest.fixture
def state(tmp_path, parameters, flats):
    path = tmp_path / "state.safetensors"
    checkpoint.save(
        path, parameters, flats[0], {"momentum": flats[1]}, Header(SMALL, ["naïve", *"bcdefg"], {"step": 3})
    )
    return path


def test_round_trip(state, parameters, flats):
    back = [np.zeros(parameters.size, np.float32) for _ in range(2)]
    checkpoint.load(state, parameters, back[0], {"momentum": back[1]})
    assert all(np.array_equal(a, b) for a, b in zip(flats, back, strict=True))
    assert checkpoint.read_header(state) == Header(SMALL, ["naïve", *"bcdefg"], {"step": 3})
    assert list(state.parent.iterdir()) == [state]


def test_weights_alone_are_what_torchvision_reads(tmp_path, parameters, flats):
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, parameters, flats[0], {}, Header(SMALL))
    tensors = load_file(path)
    assert {name: value.shape for name, value in tensors.items()} == {s.name: s.file_shape for s in parameters.specs}
    # A transposed array, which safetensors would scramble if it were saved as it lies.
    inside = parameters.views(flats[0])["features.3.weight"]
    assert np.array_equal(tensors["features.3.weight"], inside.transpose(3, 2, 0, 1))
    with pytest.raises(UserError, match="no training state"):
        checkpoint.load(path, parameters, flats[0], {"momentum": flats[1]})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_reads_a_file_without_metadata(tmp_path, parameters, flats, dtype):
    views = parameters.views(flats[0])
    path = tmp_path / "torchvision.safetensors"
    save_file({spec.name: spec.to_file(views[spec.name]).astype(dtype) for spec in parameters.specs}, path)
    assert checkpoint.read_header(path).network == Network(num_classes=7, width=1 / 16)
    back = np.zeros(parameters.size, np.float32)
    checkpoint.load(path, parameters, back, {})
    assert np.array_equal(back, flats[0].astype(dtype).astype(np.float32))


def test_the_mode_follows_the_umask(state):
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(state.stat().st_mode) == 0o666 & ~mask


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def foreign(path):
    path.write_bytes(b"PK\x03\x04 not ours" * 100)


def huge_claim(path):
    # A header that claims more data than any disk holds.
    header = json.dumps(
        {"features.0.bias": {"dtype": "F32", "shape": [10**11], "data_offsets": [0, 4 * 10**11]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def gone(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty, foreign, huge_claim, gone])
def test_damaged_files_are_refused_before_anything_is_overwritten(damage, state, parameters):
    damage(state)
    back = [np.full(parameters.size, 5, np.float32) for _ in range(2)]
    with pytest.raises(UserError, match=str(state)):
        checkpoint.load(state, parameters, back[0], {"momentum": back[1]})
    assert all((flat == 5).all() for flat in back)


@pytest.mark.parametrize("damage", [cut, empty, foreign, huge_claim, gone])
def test_headers_of_damaged_files_are_refused(damage, state):
    damage(state)
    with pytest.raises(UserError, match=str(state)):
        checkpoint.read_header(state)


def rewrite(path, change):
    """Writes the file again with changed metadata."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    change(metadata)
    save_file(load_file(path), path, metadata)


def test_a_changed_header_fails_the_checksum(state, parameters, flats):
    rewrite(state, lambda metadata: metadata.update(header=metadata["header"].replace('"step": 3', '"step": 4')))
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(state, parameters, flats[0], {"momentum": flats[1]})


def test_a_later_version_is_refused(state):
    rewrite(state, lambda metadata: metadata.update(version="99"))
    with pytest.raises(UserError, match="99, newer"):
        checkpoint.read_header(state)


@pytest.mark.parametrize("other", [Network(8, 67, 0.5, 1 / 16), Network(7, 67, 0.5, 1 / 8)])
def test_another_shape_is_refused_by_name(state, other):
    parameters = parameter_map(other)
    flat = np.zeros(parameters.size, np.float32)
    with pytest.raises(UserError, match=r"of another shape: (classifier|features)\.\d+\.\w+ is"):
        checkpoint.load(state, parameters, flat, {"momentum": flat.copy()})


def test_a_file_that_cannot_be_written_leaves_the_old_one(state, parameters, flats, monkeypatch):
    before = state.read_bytes()

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        checkpoint.save(state, parameters, flats[1], {"momentum": flats[0]}, Header(SMALL))
    assert state.read_bytes() == before
    assert list(state.parent.iterdir()) == [state]


def with_header(path, **changes):
    """A file of SMALL's weights whose header says something else, without a checksum."""
    parameters = parameter_map(SMALL)
    views = parameters.views(np.zeros(parameters.size, np.float32))
    header = {**asdict(Header(SMALL)), **{name: value for name, value in changes.items() if name != "network"}}
    header["network"] = {**header["network"], **changes.get("network", {})}
    metadata = {"format": "alexnet_dist", "version": "1", "header": changes.get("raw") or json.dumps(header)}
    save_file({spec.name: spec.to_file(views[spec.name]) for spec in parameters.specs}, path, metadata)
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"raw": "[" * 100_000}, "header that this program can't read"),
        ({"network": {"width": float("inf")}}, "width is inf"),
        ({"network": {"width": [1]}}, r"width is \[1\]"),
        ({"network": {"width": "1"}}, "width is '1'"),
        ({"network": {"image_size": -5}}, "image_size is -5"),
        ({"network": {"image_size": 67.5}}, "image_size is 67.5"),
        ({"network": {"num_classes": 10**9}}, "num_classes is 1000000000"),
        ({"network": {"num_classes": 10**6}}, "is not whole: its header is of"),
        ({"network": {"width": 60}}, "is not whole: its header is of"),
        ({"network": {"dropout": None}}, "dropout is None"),
        ({"network": {"interpolation": "magic"}}, "interpolation is 'magic'"),
        ({"network": {"surprise": 1}}, "surprise"),
        ({"class_names": ["a"]}, "class names are not 7 texts"),
        ({"class_names": list(range(7))}, "class names are not 7 texts"),
        ({"training": [1]}, "training state is a list"),
    ],
)
def test_headers_that_no_run_has_written(tmp_path, changes, words):
    """They cost neither memory nor time before they are refused."""
    path = with_header(tmp_path / "odd.safetensors", **changes)
    tracemalloc.start()
    with pytest.raises(UserError, match=words):
        checkpoint.load_weights(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, parameters, flats, value):
    flats[0][-1] = value
    path = tmp_path / "diverged.safetensors"
    checkpoint.save(path, parameters, flats[0], {}, Header(SMALL))
    with pytest.raises(UserError, match=r"classifier\.6\.bias that are not finite"):
        checkpoint.load_weights(path)


def test_bfloat16_is_read(tmp_path, parameters, flats):
    """NumPy has no such type: the file is written by hand, with a tensor of no use before the others."""
    views, content, table = parameters.views(flats[0]), bytearray(b"\1\2"), {"odd": ["BF16", [1], [0, 2]]}
    for spec in parameters.specs:
        array = spec.to_file(views[spec.name])
        start = len(content)
        content += (np.ascontiguousarray(array).view(np.uint32) >> 16).astype("<u2").tobytes()
        table[spec.name] = ["BF16", list(array.shape), [start, len(content)]]
    header = json.dumps(
        {name: dict(zip(("dtype", "shape", "data_offsets"), entry, strict=True)) for name, entry in table.items()}
    )
    path = tmp_path / "bfloat16.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + content)
    back = np.zeros(parameters.size, np.float32)
    checkpoint.load(path, parameters, back, {})
    assert np.array_equal(back, (flats[0].view(np.uint32) & 0xFFFF0000).view(np.float32))


def test_only_what_is_wanted_is_read(tmp_path, parameters, flats):
    """A file of others may hold more, also of types that NumPy doesn't know."""
    views = parameters.views(flats[0])
    tensors = {spec.name: spec.to_file(views[spec.name]) for spec in parameters.specs}
    path = tmp_path / "more.safetensors"
    save_file({**tensors, "huge": np.zeros(20_000_000, np.float32)}, path)
    back = np.zeros(parameters.size, np.float32)
    tracemalloc.start()
    checkpoint.load(path, parameters, back, {})
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()
    assert np.array_equal(back, flats[0])


def test_of_a_state_only_the_weights_are_kept_where_they_are_wanted(tmp_path):
    """The checksum is that of all tensors, but each is of no more use when it is in it."""
    network = Network(num_classes=7, image_size=67, width=0.25)
    parameters = parameter_map(network)
    path, flat = tmp_path / "state.safetensors", np.ones(parameters.size, np.float32)
    checkpoint.save(path, parameters, flat, dict.fromkeys(("a", "b", "c"), flat), Header(network))
    largest = 4 * max(spec.size for spec in parameters.specs)
    for read, kept in ((checkpoint.load_weights, 2), (checkpoint.verify, 0)):  # in the file's order and in ours
        tracemalloc.start()
        read(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < kept * flat.nbytes + 2 * largest
