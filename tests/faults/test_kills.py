"""kill -9 of ranks, of mpirun and of whole jobs at random moments, under the supervisor: the run is as if nothing had happened.

python -m pytest tests/faults                             some kills
ALEXNET_KILLS=50 python -m pytest -s tests/faults         as many as you like, and what they hit
"""

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from launcher import SMALL, Job, needs_mpirun, steps, train, validations
from safetensors.numpy import load_file

from alexnet_dist.runs.metrics import read_run
from alexnet_dist.supervision.leftovers import segments, unused_segments

pytestmark = needs_mpirun

KILLS = int(os.environ.get("ALEXNET_KILLS", "6"))
SEED = int(os.environ.get("ALEXNET_SEED", "0"))
IN_A_RUN = 5  # kills
EPOCHS, STEPS, EVERY = 5, 50, 5  # epochs, steps of each, steps from one state to the next
LIMIT = 120  # seconds for a run with its kills
STRATEGIES = ("allreduce", "hybrid")


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    return pictures.write_lists(tmp_path_factory.mktemp("kills"), 4 * STEPS, 8)


@pytest.fixture(scope="module")
def whole(site):
    """The folders of runs that nobody disturbs, by strategy."""
    for sync in STRATEGIES:
        train(2, flags(f"whole-{sync}", sync), site).ok()
    return {sync: site / f"whole-{sync}" for sync in STRATEGIES}


def flags(name, sync):
    data = ["--data", "train.list", "--val", "val.list", "--global-batch", 4, "--epochs", EPOCHS, "--lr", "0.001"]
    return [*data, "--save-every", EVERY, "--sync", sync, "--output-dir", name, "--save", f"{name}.safetensors"]


def kills():
    """For each run its strategy, and for each of its kills what is killed and when; a third while a state is written."""
    chance = random.Random(SEED)
    all_kills = [
        (chance.choice(["rank", "mpirun", "job"]), "writing" if number % 3 == 0 else "any moment")
        for number in range(KILLS)
    ]
    groups = [all_kills[start : start + IN_A_RUN] for start in range(0, KILLS, IN_A_RUN)]
    return [
        pytest.param(STRATEGIES[number % 2], group, number, id=f"run {number}") for number, group in enumerate(groups)
    ]


@pytest.mark.parametrize(("sync", "planned", "number"), kills())
def test_killed_runs_complete_as_if_nothing_had_happened(site, whole, sync, planned, number):
    chance, name, before = random.Random(1000 * SEED + number), f"run-{number}", segments()
    folder = site / name
    training = ["mpirun", "-n", "2", sys.executable, "-m", "alexnet_dist.train", *SMALL, *map(str, flags(name, sync))]
    patience = ["--pause", "0.05", "--restarts", str(KILLS)]
    with Job([sys.executable, "-m", "alexnet_dist.supervise", *patience, "--", *training], site) as job:
        done = [strike(job, folder, what, when, chance) for what, when in planned]
        job.wait(LIMIT)
    print(f"\n{sync}: {', '.join(done)}; {(folder / 'supervise.log').read_text().count('goes on')} attempts more")
    assert any(word != "too late" for word in done)
    job.ok()
    assert_same(folder, whole[sync])
    assert unused_segments(before) - before == set()  # older ones count once they are forgotten: they are others'
    assert job.alive() == []
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def strike(job, folder, what, when, chance):
    """Kills; returns what it was and when, or "too late" after the run's end."""
    end = time.monotonic() + chance.uniform(0.2, 3)
    while job.process.poll() is None:
        if when == "any moment" and time.monotonic() > end:
            break
        if when == "writing" and is_writing(folder):
            break
        if when != "writing":
            time.sleep(0.002)
    victims = [pid for pid in chosen(job, what, chance) if pid != job.process.pid]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if job.process.poll() is not None or not victims:
        return "too late"
    return f"{what} ({when}, step {max(steps(folder, killed=True), default=0)})"


def is_writing(folder):
    """Whether a state, or the weights, are being written."""
    with contextlib.suppress(OSError):
        return any(name.endswith(".part") or name.startswith(".tmp") for name in os.listdir(folder))
    return False


def chosen(job, what, chance):
    """The processes to kill."""
    if what == "job":
        return job.alive()
    if what == "rank":
        ranks = job.ranks()
        return [chance.choice(ranks)] if ranks else []
    launchers = [
        pid for pid in job.alive() if program(pid) in ("mpirun", "prterun", "mpiexec.hydra", "hydra_pmi_proxy")
    ]
    return [chance.choice(launchers)] if launchers else []


def program(pid):
    with contextlib.suppress(OSError):
        return Path(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()).name
    return ""


def assert_same(folder, whole):
    """To the bit: the losses of all steps, the validations, the weights, and the last training state."""
    for column in ("loss", "top1", "lr"):
        assert steps(folder, column) == steps(whole, column), column
    assert len(steps(folder)) == EPOCHS * STEPS
    assert validations(folder) == validations(whole)
    ours, theirs = (read_run(one) for one in (folder, whole))
    assert [row["loss"] for row in ours.steps] == [row["loss"] for row in theirs.steps]
    assert len(ours.epochs) == EPOCHS
    assert (folder / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    for one, other in (
        (folder.with_suffix(".safetensors"), whole.with_suffix(".safetensors")),
        (folder / "latest.safetensors", whole / "latest.safetensors"),
        (folder / "best.safetensors", whole / "best.safetensors"),
    ):
        ours, theirs = load_file(one), load_file(other)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].tobytes() == theirs[key].tobytes() for key in ours), one.name
