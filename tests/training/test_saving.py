"""In which order the files of a run reach the disk."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small import SMALL

from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.runs.folder import RunFolder
from alexnet_dist.runs.log import RunLog
from alexnet_dist.runs.metrics import TABLES
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.report import Report
from alexnet_dist.training.saving import Saver, Snapshot


@pytest.fixture
def saver(tmp_path, package_logger):
    """One of a run of one rank, as far as writing a state needs it."""
    config, out = TrainingConfig(), RunLog(tmp_path, enabled=True)
    run = SimpleNamespace(
        config=config,
        network=SMALL,
        folder=RunFolder(tmp_path, keep=2),
        report=Report(out, config, 8, SMALL.num_classes),
        resumed=None,
        global_batch=8,
        train_list="x",
        val_list="y",
        nodes=[1],
        world=SimpleNamespace(size=1),
        sources=SimpleNamespace(class_names=None),
        engine=SimpleNamespace(strategy_name="local", parameters=parameter_map(SMALL)),
    )
    with Saver(run) as saver:
        yield saver
    out.close()


@pytest.mark.parametrize(("folder", "saved"), [("run", 3), ("run/../run", 3), ("other", -1)])
def test_a_run_that_goes_on_in_another_folder_has_no_state_of_its_own_yet(tmp_path, folder, saved):
    """So it writes one before its first validation, and who stops it then can go on there."""
    origin = SimpleNamespace(path=tmp_path / folder / "checkpoint-00000003.safetensors")
    world = SimpleNamespace(size=1, broadcast_json=lambda values: values)
    run = SimpleNamespace(folder=RunFolder(tmp_path / "run", keep=2), origin=origin, world=world)
    with Saver(SimpleNamespace(**vars(run), resumed={"progress": {}}, progress=Progress(step=3))) as saver:
        assert saver.saved_step == saved


def test_a_state_is_there_when_all_that_led_to_it_is(saver, tmp_path, monkeypatch):
    """After a power cut, no state is ahead of the log and the metrics, and `latest` leads to none that isn't whole."""
    values = np.zeros(parameter_map(SMALL).size, np.float32)
    snapshot, calls = Snapshot(3, values, {"momentum": values}), []
    flush, replace = os.fsync, os.replace

    def fsync(number):
        calls.append(f"flush {os.readlink(f'/proc/self/fd/{number}').removeprefix(str(tmp_path.parent))}")
        flush(number)

    def rename(source, target):
        calls.append(f"name {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    saver._write_state(Progress(step=3), snapshot)
    here, state = f"/{tmp_path.name}", "checkpoint-00000003.safetensors"
    tables = [f"flush {here}/{table}.jsonl" for table in sorted(TABLES)]
    assert sorted(calls[:5]) == [*tables, f"flush {here}/train.log"]
    assert calls[5:] == [
        f"flush {here}/.{state}.{os.getpid()}.part",
        f"name {state}",
        f"flush {here}",
        "name latest.safetensors",
        f"flush {here}",
    ]
