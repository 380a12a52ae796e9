"""The file that a run begins with: which one it is, what of its header is believed, and what is said of a damaged one."""

import json
import os
from dataclasses import asdict

import numpy as np
import pytest
from small import SMALL

from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.folder import RunFolder
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.origin import Start, fill, read_origin
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.setup import _strategy_before

CONFIG = TrainingConfig(global_batch=8)
PARAMETERS = parameter_map(SMALL)
TRAINING = {
    "seed": CONFIG.seed,
    "global-batch": 8,
    "opt": CONFIG.opt,
    "train list": "x",
    "val list": "y",
    "sync": "hybrid",
    "ranks": 2,
    "nodes": [2],
    "config": asdict(CONFIG),
}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path, keep=5)


def save(folder, step):
    """A state whose weights are all its step."""
    values = np.full(PARAMETERS.size, step, np.float32)
    training = {**TRAINING, "progress": json.loads(json.dumps(asdict(Progress(step=step))))}
    state = folder.state(step)
    checkpoint.save(state, PARAMETERS, values, {"momentum": values}, checkpoint.Header(SMALL, training=training))
    os.utime(state, (step, step))
    folder.point_latest(state)
    return state


def read(path):
    """A state's progress and its weights."""
    origin = read_origin(CONFIG, Start(path, resuming=True), SMALL, None, 8)
    yield origin.training["progress"]["step"]
    values, momentum = (np.zeros(PARAMETERS.size, np.float32) for _ in range(2))
    fill(origin, CONFIG, SMALL, values, {"momentum": momentum})
    yield values[0]


def test_progress_and_weights_are_of_one_state(folder):
    """Another run may save a state, and end, between the two; only then is the folder held."""
    save(folder, 1)
    reading = read(folder.latest)
    assert next(reading) == 1
    save(folder, 2)
    assert next(reading) == 1
    assert list(read(folder.latest)) == [2, 2]


@pytest.mark.parametrize("size", [1000, -1000])
def test_of_a_damaged_state_the_whole_ones_beside_it_are_named(folder, size):
    states = [save(folder, step) for step in (1, 2, 3, 4)]
    os.truncate(states[2], 1000)
    with open(states[3], "r+b") as file:
        if size > 0:
            file.truncate(size)
        else:
            file.seek(size, os.SEEK_END)
            file.write(b"flipped")
    words = rf"{states[3].name} is .*\. Use an earlier checkpoint: {states[1].name}, {states[0].name} beside it"
    with pytest.raises(UserError, match=words):
        list(read(folder.latest))


def test_a_damaged_state_that_is_alone(folder):
    os.truncate(save(folder, 1), 1000)
    with pytest.raises(UserError, match=r"Use an earlier checkpoint$"):
        list(read(folder.latest))


@pytest.mark.parametrize(
    ("sync", "nodes", "expected"),
    [
        ("hybrid", [2], "hybrid"),
        ("sharded", [1, 1], None),  # other nodes
        ("hybrid", [3], None),
        ("foo", [2], None),
        ("local", [2], None),  # each rank would train for itself
        ("immediate", [2], None),
        ([1], [2], None),
    ],
)
def test_a_strategy_in_a_header_is_believed_if_it_can_be_one_of_these_ranks(sync, nodes, expected):
    assert _strategy_before(CONFIG, {**TRAINING, "sync": sync}, nodes) == expected


@pytest.mark.parametrize(("sync", "expected"), [("immediate", "local"), ("local", "local"), ("foo", None)])
def test_the_strategy_of_one_rank(sync, expected):
    assert _strategy_before(CONFIG, {**TRAINING, "sync": sync, "ranks": 1, "nodes": [1]}, [1]) == expected
