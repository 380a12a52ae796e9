"""Training on several hosts is training on one: every strategy, equal and unequal numbers of ranks, and what they send."""

import json
from pathlib import Path

import numpy as np
import pytest
from launcher import MPIRUN, SMALL, Job, epoch_results, needs_mpirun, rows, steps, train
from safetensors.numpy import load_file

from alexnet_dist.model.architecture import Network
from alexnet_dist.training.optim import SGD
from alexnet_dist.training.strategies import STRATEGIES, Demand

pytestmark = needs_mpirun

STEPS = 20
TIMELESS = ("epoch", "step", "event", "loss", "top1", "lr", "train_loss", "val_loss", "val_top1", "best")
FLAGS = ["--data", "train.list", "--val", "val.list", "--global-batch", "12", "--epochs", "5", "--lr", "0.003"]
PROBE = """
import json
from alexnet_dist.comm.node import Node
from alexnet_dist.comm.world import World
world = World()
node = Node(world)
if world.rank == 0:
    print(json.dumps([node.nodes, node.sizes, node.number]))
node.close()
"""


MEMORY = """
import json, os, numpy as np
from alexnet_dist.comm.world import World
from alexnet_dist.data.loader import Batch
from alexnet_dist.model.architecture import Network
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.optim import SGD
from alexnet_dist.training.strategies import STRATEGIES, Demand
world, spec = World(), StepSpec(Network(num_classes=100, image_size=67, width=0.5), 64, SGD())

def used():
    left = os.statvfs("/dev/shm")
    return (left.f_blocks - left.f_bfree) * left.f_frsize

before = used()
with Team(1) as team:
    engine = Engine(spec, world, team, "hybrid")
    engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=0))
    x = np.zeros((64, 67, 67, 3), np.float32)
    engine.step(Batch(x, np.zeros(64, int), np.arange(64)), 64 * world.size, 0, 0.01)
    world.sum([0])
    node = engine.strategy.node
    demand = Demand(spec.network, spec.optimizer, 64, tuple(node.sizes), node.number)
    found = [used() - before, STRATEGIES["hybrid"].shared_memory_of_a_node(demand), 8 * engine.parameters.size]
    everyone = [json.loads(text) for text in world.all_texts([json.dumps(found)])]
    if world.rank == 0:
        print(json.dumps(everyone))
    world.sum([0])
    engine.close()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("hosts")
    pictures.write_list(folder / "train.list", 45)  # steps of 12, 12, 12 and 9 images
    pictures.write_list(folder / "val.list", 7)
    for images in (24, 204):
        pictures.write_list(folder / f"{images}.list", images)
    return folder


def run(hosts, ranks, words, cwd) -> Job:
    """A Python command on so many ranks of each host, to its end."""
    with Job(hosts.mpirun(MPIRUN, ranks, list(map(str, words)), cwd), cwd) as job:
        return job.wait().ok()


def train_on(hosts, ranks, folder, name, *flags) -> Path:
    """The folder of a run; the last one of each flag wins, as SMALL has some, too."""
    output = ["--output-dir", name, "--save", f"{name}.safetensors"]
    run(hosts, ranks, ["-m", "alexnet_dist.train", *SMALL, *FLAGS, *output, *flags], folder)
    return folder / name


@pytest.fixture(scope="module")
def alone(folder):
    train(1, [*FLAGS, "--output-dir", "alone", "--save", "alone.safetensors"], folder).ok()
    return folder / "alone"


def assert_same_training(ours, alone, first=1):
    """Losses within 1e-4, the first within 1e-6, parameters within 1e-4 of the largest, the same validation answers."""
    losses, expected = steps(ours, first=first), steps(alone, first=first)
    assert list(losses) == list(expected) == list(range(first, STEPS + 1))
    assert first > 1 or losses[1] == pytest.approx(expected[1], rel=1e-6)
    assert list(losses.values()) == pytest.approx(list(expected.values()), rel=1e-4)
    one, other = (load_file(f"{folder}.safetensors") for folder in (alone, ours))
    for key, value in one.items():
        np.testing.assert_allclose(other[key], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=key)
    answers = [[entry["val_top1"] for entry in epoch_results(folder)] for folder in (ours, alone)]
    assert answers[0] == answers[1][-len(answers[0]) :]


@pytest.mark.parametrize("ranks", [(1, 1), (2, 2), (2, 1), (1, 1, 1)], ids=str)
def test_mpi_sees_the_nodes(hosts, tmp_path, ranks):
    done = run(hosts, ranks, ["-c", PROBE], tmp_path)
    assert json.loads(done.out.strip().splitlines()[-1]) == [len(ranks), list(ranks), 0]


@pytest.mark.parametrize("ranks", [(2,), (2, 2)], ids=str)
def test_a_host_holds_its_share_and_no_more(hosts, tmp_path, ranks):
    done = run(hosts, ranks, ["-c", MEMORY], tmp_path)
    found = json.loads(done.out.strip().splitlines()[-1])
    for used, planned, parameters_and_momentum in found:
        assert 0.93 * planned < used < planned + (1 << 20)  # what MPI itself takes there
        # All parameters and their momentum on one host, hardly more than half of them on each of two.
        assert 1.0 < used / (parameters_and_momentum / len(ranks)) < 1.9


@pytest.mark.parametrize("ranks", [(1, 1), (2, 2), (2, 1), (4, 4), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("sync", ["allreduce", "sharded", "hybrid"])
def test_hosts_train_as_one_rank_does(hosts, folder, alone, sync, ranks):
    ours = train_on(hosts, ranks, folder, f"{sync}-{'-'.join(map(str, ranks))}", "--sync", sync)
    assert f"gradients: {sync} (--sync {sync})" in (ours / "train.log").read_text()
    assert_same_training(ours, alone)


@pytest.mark.parametrize("opt", ["lars", "adamw"])
def test_other_optimizers_on_hosts_that_divide_the_layers(hosts, folder, opt):
    flags = ["--opt", opt, "--lr", {"lars": 0.5, "adamw": 0.0002}[opt]]
    train(1, [*FLAGS, *flags, "--output-dir", opt, "--save", f"{opt}.safetensors"], folder).ok()
    ours = train_on(hosts, (2, 1), folder, f"{opt}-2-1", "--sync", "hybrid", *flags)
    assert list(steps(ours).values()) == pytest.approx(list(steps(folder / opt).values()), rel=1e-3)


def test_a_run_moves_from_one_host_to_two_and_back_in_the_middle_of_an_epoch(hosts, folder, alone):
    flags = ["--sync", "hybrid", "--save-every", 1, "--keep", STEPS]
    whole = train_on(hosts, (2,), folder, "moves-1", *flags)
    state = whole / "checkpoint-00000006.safetensors"
    there = train_on(hosts, (1, 1), folder, "moves-2", *flags, "--resume", state)
    assert_same_training(there, alone, first=7)
    state = there / "checkpoint-00000013.safetensors"
    assert_same_training(train_on(hosts, (2,), folder, "moves-3", *flags, "--resume", state), alone, first=14)


def test_resumed_on_the_same_hosts_to_the_bit(hosts, folder):
    flags = ["--sync", "hybrid", "--save-every", 1, "--keep", STEPS]
    whole = train_on(hosts, (2, 1), folder, "bits-1", *flags)
    again = train_on(hosts, (2, 1), folder, "bits-2", *flags, "--resume", whole / "checkpoint-00000006.safetensors")
    assert steps(again) == steps(whole)
    one, other = (load_file(f"{run}.safetensors") for run in (whole, again))
    assert all(np.array_equal(one[key], other[key]) for key in one)


def bytes_of_a_step(hosts, ranks, folder, sync):
    """What leaves each host in a step of 12 images; the difference of two runs leaves out validation and checkpoints."""
    sent, made = [], []
    for images in ("24", "204"):
        before = hosts.sent()
        name = f"wire-{images}-{sync}-{'-'.join(map(str, ranks))}"
        flags = ["--data", f"{images}.list", "--sync", sync, "--epochs", 1]
        run_folder = train_on(hosts, ranks, folder, name, *flags)
        sent.append(np.subtract(hosts.sent(), before))
        made.append(len(steps(run_folder)))
    return (sent[1] - sent[0])[: len(ranks)] / (made[1] - made[0])


@pytest.mark.parametrize("ranks", [(2, 2), (2, 1), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("sync", ["allreduce", "sharded", "hybrid"])
def test_what_is_sent_is_what_the_table_of_strategies_says(hosts, folder, sync, ranks):
    measured = bytes_of_a_step(hosts, ranks, folder, sync)
    network = Network(num_classes=3, image_size=67, width=0.0625)
    images = 12 / sum(ranks)  # of a rank in a step; the formula is linear in it
    entry, expected = STRATEGIES[sync], []
    for node in range(len(ranks)):
        none, some = (entry.sent(Demand(network, SGD(), batch, ranks, node)) for batch in (0, 1000))
        expected.append(none + (some - none) * images / 1000)
    # MPICH lets one of three hosts send twice what each of the two others sends of a sum; all together send no more.
    if len(ranks) == 3:
        measured, expected = [measured.sum()], [sum(expected)]
    assert measured == pytest.approx(expected, rel=0.12)  # headers, and what the hosts say to each other


def test_auto_chooses_the_same_each_time(hosts, folder):
    def run_of(name):
        ours = train_on(hosts, (1, 1), folder, name, "--sync", "auto", "--epochs", 2)
        log = (ours / "train.log").read_text()
        choice = next(line.split("gradients: ")[1] for line in log.splitlines() if "gradients: " in line)
        timeless = [
            {name: value for name, value in row.items() if name in TIMELESS}
            for table in ("steps", "epochs", "events")
            for row in rows(ours, table)
        ]
        return choice, timeless

    first, *others = [run_of(f"auto-{number}") for number in range(3)]
    assert first[0].startswith("hybrid (each of 2 nodes sends, in a step of up to 12 images, at most: hybrid ")
    assert others == [first, first]
