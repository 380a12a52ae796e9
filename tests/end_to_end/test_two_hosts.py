"""Training on two hosts is training on one: every strategy, equal and unequal numbers of ranks."""

import json

import numpy as np
import pytest
from hosts import two_hosts, why_not
from launcher import MPIRUN, SMALL, needs_mpirun, steps, train
from safetensors.numpy import load_file

REASON = why_not()
pytestmark = [needs_mpirun, pytest.mark.skipif(bool(REASON), reason=REASON)]

STEPS = 20
FLAGS = ["--data", "train.list", "--val", "val.list", "--global-batch", "12", "--epochs", "5", "--lr", "0.003"]
PROBE = """
import json
from alexnet_dist.comm.node import Node
from alexnet_dist.comm.world import World
world = World()
node = Node(world)
sizes = [int(text) for text in world.all_texts([str(node.size)])]
if world.rank == 0:
    print(json.dumps([node.nodes, sizes, node.owners]))
node.close()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("two-hosts")
    pictures.write_list(folder / "train.list", 45)  # steps of 12, 12, 12 and 9 images
    pictures.write_list(folder / "val.list", 5)
    return folder


@pytest.fixture(scope="module")
def hosts(folder):
    with two_hosts(folder, MPIRUN) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def alone(folder):
    train(1, [*FLAGS, "--output-dir", "alone", "--save", "alone.safetensors"], folder).ok()
    return steps(folder / "alone"), load_file(folder / "alone.safetensors")


@pytest.mark.parametrize("ranks", [(1, 1), (2, 2), (2, 1)])
def test_mpi_sees_two_nodes(hosts, ranks):
    done = hosts.run(ranks, ["-c", PROBE])
    assert done.returncode == 0, done.stdout + done.stderr
    sizes = [ranks[0]] * ranks[0] + [ranks[1]] * ranks[1]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == [2, sizes, min(ranks)]


@pytest.mark.parametrize("ranks", [(1, 1), (2, 2), (2, 1), (4, 4)], ids=str)
@pytest.mark.parametrize("sync", ["allreduce", "sharded", "hybrid"])
def test_two_hosts_train_as_one_rank_does(hosts, folder, alone, sync, ranks):
    losses, weights = alone
    name = f"{sync}-{ranks[0]}-{ranks[1]}"
    output = ["--sync", sync, "--output-dir", name, "--save", f"{name}.safetensors"]
    # The last --sync wins: SMALL has one, too.
    done = hosts.run(ranks, ["-m", "alexnet_dist.train", *SMALL, *FLAGS, *output])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"gradients: {sync} (as asked for)" in done.stdout
    ours = steps(folder / name)
    assert list(ours) == list(losses) == list(range(1, STEPS + 1))
    assert ours[1] == pytest.approx(losses[1], rel=1e-6)
    assert list(ours.values()) == pytest.approx(list(losses.values()), rel=1e-4)
    other = load_file(folder / f"{name}.safetensors")
    for key, value in weights.items():
        np.testing.assert_allclose(other[key], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=key)
