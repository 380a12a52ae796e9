"""Whatever a file or a command line holds: a message, or it works. No traceback, no hang, no gigabyte.

python -m pytest tests/fuzz                               some examples of each, always the same
ALEXNET_FUZZ_SECONDS=60 python -m pytest tests/fuzz       others, for so long each
"""

import contextlib
import io
import json
import os
import struct

import numpy as np
import pytest
from hypothesis import strategies as st
from mutations import JUNK, damaged, draw, fuzz, twisted
from PIL import Image

from alexnet_dist import evaluate, inference, prepare, supervise
from alexnet_dist.cli import ABOUT
from alexnet_dist.data.augment import load_for_evaluation, load_for_training
from alexnet_dist.data.sources import SourcePaths, read_sources
from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.model.parameters import initialize
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.lock import NAME, RunLock
from alexnet_dist.supervision.command import Command
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.flags import build_parser, read_config
from alexnet_dist.training.origin import Start, read_origin
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.resumed_flags import continued, flags_before

SIZE = 32


EXIF = Image.Exif()
EXIF[0x0112] = 6
IMAGES = {
    "jpeg": draw("RGB", "JPEG"),
    "progressive": draw("RGB", "JPEG", progressive=True),
    "turned": draw("RGB", "JPEG", exif=EXIF),
    "cmyk": draw("CMYK", "JPEG"),
    "png": draw("RGB", "PNG"),
    "palette": draw("P", "PNG", transparency=0),
    "one bit": draw("1", "PNG"),
    "16 bits": draw("I;16", "PNG"),
    "alpha": draw("LA", "PNG"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images(kind):
    out = np.zeros((SIZE, SIZE, 3), np.float32)
    augmentation = TrainingConfig(
        image_size=SIZE, auto_augment="ta_wide", color_jitter=(0.4, 0.4, 0.4, 0.1)
    ).augmentation()

    def check(content):
        with contextlib.suppress(UserError):
            load_for_evaluation(lambda: io.BytesIO(content), SIZE, out)
        load_for_training(lambda: io.BytesIO(content), augmentation, np.random.default_rng(0), out)

    fuzz(damaged(IMAGES[kind]), check)


WORDS = [
    "0",
    "1",
    "-1",
    "2147483648",
    "1e3",
    "٣",
    "x.jpg",
    "a b.png",
    "",
    " ",
    "\t",
    "\\",
    '"',
    "#",
    "../x",
    "\0",
    "\r",
]
LINES = st.lists(st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join), max_size=6).map("\n".join).map(str.encode)


def test_lists(tmp_path):
    (tmp_path / "x.jpg").write_bytes(IMAGES["jpeg"])
    list_, names = tmp_path / "images.list", tmp_path / "names.txt"

    def check(contents):
        list_.write_bytes(contents[0])
        names.write_bytes(contents[1])
        sources = read_sources(SourcePaths(list_, None, 0.5, names if contents[1] else None, None), seed=0)
        assert sources.train.where(0)
        assert sources.train.labels.min() >= 0

    text = LINES | damaged(b"0 x.jpg\n1 a b.png\n0 x.jpg\n") | st.binary(max_size=40)
    fuzz(st.tuples(text, st.just(b"") | text), check)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """The bytes of a training state of a small network."""
    network = Network(num_classes=3, image_size=64, width=0.03125)
    parameters = parameter_map(network)
    values = np.zeros(parameters.size, np.float32)
    initialize(parameters, values, "he", seed=0)
    training = {
        "progress": json.loads(json.dumps(Progress(epoch=1, step=7), default=vars)),
        "seed": 0,
        "global-batch": 8,
        "opt": "sgd",
        "train list": "x",
        "val list": "y",
        "sync": "local",
        "ranks": 1,
        "nodes": [1],
        "config": json.loads(json.dumps(vars(TrainingConfig()))),
    }
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    header = checkpoint.Header(network, ["a", "b", "c"], training)
    checkpoint.save(path, parameters, values, {"momentum": values}, header)
    return path.read_bytes()


def read_state(path):
    """All that reads checkpoints."""
    with contextlib.suppress(UserError):
        checkpoint.verify(path)
    with contextlib.suppress(UserError):
        checkpoint.load_weights(path)
    with contextlib.suppress(UserError):
        given = {"resume": str(path), "data": os.devnull}
        continued(flags_before(given, 1), given)
    config = TrainingConfig(global_batch=8)
    origin = read_origin(config, Start(path, resuming=True), Network(3, 64, width=0.03125), ["a", "b", "c"], 8)
    assert origin.training is not None
    Progress.from_json(origin.training["progress"]).plateau.resumed(config.schedule(8))


def test_bytes_of_checkpoints(state, tmp_path):
    def check(content):
        (tmp_path / "x.safetensors").write_bytes(content)
        read_state(tmp_path / "x.safetensors")

    header = 8 + struct.unpack("<Q", state[:8])[0]
    fuzz(damaged(state[:header]).map(lambda head: head + state[header:]) | damaged(state), check)


def test_headers_of_checkpoints(state, tmp_path):
    length = struct.unpack("<Q", state[:8])[0]
    tensors = json.loads(state[8 : 8 + length])
    ours = json.loads(tensors["__metadata__"]["header"])

    def check(header):
        metadata = tensors["__metadata__"] | {"header": json.dumps(header)}
        text = json.dumps(tensors | {"__metadata__": metadata}).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + state[8 + length :])
        read_state(tmp_path / "x.safetensors")

    wrong_type = json.loads(json.dumps(ours))
    wrong_type["training"]["config"]["ema_decay"] = ""
    no_count = json.loads(json.dumps(ours))
    no_count["training"]["progress"]["step"] = "7"
    fuzz(twisted(ours), check, wrong_type, no_count)


def test_tables_of_tensors(state, tmp_path):
    length = struct.unpack("<Q", state[:8])[0]

    def check(tensors):
        text = json.dumps(tensors).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + state[8 + length :])
        read_state(tmp_path / "x.safetensors")

    fuzz(twisted(json.loads(state[8 : 8 + length])), check)


TOML = b"""
epochs = 20
lr = 0.02
color_jitter = [0.4, 0.4, 0.4, 0.1]
flip = false
recipe = "finetune"
"""


def test_config_files(tmp_path):
    names = [action.dest for action in build_parser()._actions if action.option_strings]
    entry = st.tuples(st.sampled_from(names), JUNK).map(lambda pair: f"{pair[0]} = {json.dumps(pair[1])}\n".encode())

    def check(content):
        (tmp_path / "x.toml").write_bytes(content)
        read_config(build_parser().parse_args(["--config", str(tmp_path / "x.toml")]))

    values = damaged(TOML) | st.lists(entry, max_size=3).map(b"".join) | st.binary(max_size=40)
    fuzz(values, check, b"help = []", b'config = "x"', b"version = true", b'sample = ["--help"]')


PARSERS = {
    "train": build_parser,
    "evaluate": evaluate.build_parser,
    "inference": inference.build_parser,
    "prepare": prepare.build_parser,
    "supervise": supervise.build_parser,
}


@pytest.mark.parametrize("program", PARSERS)
def test_flags(program):
    actions = PARSERS[program]()._actions
    flags = [name for action in actions for name in action.option_strings if name not in ABOUT]
    values = st.sampled_from(["", "0", "-1", "1", "1e400", "nan", "x", "inf", "--", "auto", "9" * 5000]) | st.text(
        max_size=5
    )
    words = st.lists(st.sampled_from(flags) | values, max_size=6) if flags else st.lists(values, max_size=6)

    def check(argv):
        if ABOUT & set(argv):
            return
        args = PARSERS[program]().parse_args(argv)
        if program == "train":
            read_config(args)

    fuzz(words, check)


def test_locks(tmp_path):
    def check(content):
        (tmp_path / NAME).write_bytes(content)
        lock = RunLock(tmp_path)
        try:
            lock.acquire()
        finally:
            lock.release()

    owner = {"host": "x", "place": "y", "pid": 1, "started": "1", "job": "", "since": "z"}
    fuzz(st.binary(max_size=20) | twisted(owner).map(lambda value: json.dumps(value).encode()), check)


def test_hostfiles(tmp_path):
    words = ["mpirun", "-f", str(tmp_path / "hosts"), "-n", "4", "python", "-m", "alexnet_dist.train"]

    def check(content):
        (tmp_path / "hosts").write_bytes(content)
        Command.of(words).attempt(tmp_path / "left", lambda host: len(host) % 2 == 0)

    fuzz(damaged(b"one:2\ntwo slots=3\n# three\n") | st.binary(max_size=40), check)


@pytest.mark.parametrize("what", ["fifo", "device", "folder", "loop", "socket", "gone"])
def test_paths_that_lead_to_no_image(tmp_path, what):
    path = tmp_path / "x.jpg"
    match what:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "socket":
            import socket

            socket.socket(socket.AF_UNIX).bind(str(path))
    with pytest.raises(UserError):
        load_for_evaluation(path, SIZE, np.zeros((SIZE, SIZE, 3), np.float32))
