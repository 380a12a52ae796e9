"""The flags of a run that is continued, as its state has them."""

import os
from dataclasses import asdict, replace

import numpy as np
import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.runs import checkpoint
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.flags import build_parser, given_flags
from alexnet_dist.training.resumed_flags import continued, flags_before

NETWORK = Network(num_classes=2, image_size=64, width=0.0625)
RUN = TrainingConfig(
    flip=False, color_jitter=(0.4, 0.4, 0.4, 0.1), sample=("a b.png", "c.png"), lr=1e-5, threads=7, workers=7, resume=""
)


@pytest.fixture
def state(tmp_path):
    def write(config, **more):
        path = tmp_path / "run" / "checkpoint-00000001.safetensors"
        path.parent.mkdir(exist_ok=True)
        parameters = parameter_map(NETWORK)
        training = {"config": config, "global-batch": 128, "started in": os.getcwd(), **more}
        header = checkpoint.Header(NETWORK, training=training)
        checkpoint.save(path, parameters, np.zeros(parameters.size, np.float32), {}, header)
        return path

    return write


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images.list").write_text("")


def given(*words):
    return given_flags(build_parser().parse_args([*map(str, words)]))


def test_all_of_the_run_and_nothing_of_its_start(state):
    path = state(asdict(RUN))
    flags = given("--resume", path)
    config = continued(flags_before(flags, 1), flags)
    expected = replace(RUN, threads=None, workers=None, resume=str(path), output_dir=str(path.parent))
    assert config == expected


def test_what_is_given_wins(state):
    flags = given("--resume", state(asdict(RUN)), "--flip", "--lr", 0.5, "--batch-size", 64, "--output-dir", "new")
    config = continued(flags_before(flags, 2), flags)
    assert (config.flip, config.lr, config.output_dir) == (True, 0.5, "new")
    assert (config.batch_size, config.global_batch) == (64, None)


def test_the_batch_of_each_rank_gives_way_where_there_are_other_ranks(state):
    flags = given("--resume", state(asdict(replace(RUN, batch_size=32))))
    for ranks, batches in ((4, (32, None)), (2, (None, 128))):
        config = continued(flags_before(flags, ranks), flags)
        assert (config.batch_size, config.global_batch) == batches


def test_another_optimizer_leaves_out_what_was_of_the_first(state):
    flags = given("--resume", state(asdict(replace(RUN, momentum=0.8))), "--opt", "adamw")
    config = continued(flags_before(flags, 1), flags)
    assert (config.opt, config.momentum) == ("adamw", TrainingConfig.momentum)


def test_paths_start_where_the_run_did(state, tmp_path, monkeypatch):
    flags = given("--resume", state(asdict(RUN)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = continued(flags_before(flags, 1), flags)
    assert config.data == str(tmp_path / "images.list")
    assert config.sample == (str(tmp_path / "a b.png"), str(tmp_path / "c.png"))


@pytest.mark.parametrize("words", [(), ("--resume", "auto")])
def test_a_new_run_has_none(words):
    assert flags_before(given(*words), 1) == {}


@pytest.mark.parametrize(
    "wrong", [{"epochs": "many"}, {"opt": 3}, {"flip": "maybe"}, {"lr": {}}, {"color_jitter": ["x"]}, {"seed": [1, 2]}]
)
def test_flags_that_are_none_are_refused(state, wrong):
    with pytest.raises(UserError, match="has a training state that this program can't read"):
        flags_before(given("--resume", state(wrong)), 1)


def test_flags_of_later_versions_are_left_out(state):
    path = state({"lr": 0.5, "fancy": True})
    assert flags_before(given("--resume", path), 1) == {"lr": 0.5, "output_dir": str(path.parent)}
