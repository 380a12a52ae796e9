"""Training on two hosts is training on one: every strategy, equal and unequal numbers of ranks. Nothing is sent twice."""

import contextlib
import json

import numpy as np
import pytest
from hosts import Impossible, two_hosts
from launcher import SMALL, needs_mpirun, steps, train
from safetensors.numpy import load_file

pytestmark = needs_mpirun

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
def hosts(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        try:
            hosts = stack.enter_context(two_hosts(tmp_path_factory.mktemp("hosts")))
        except Impossible as error:
            pytest.skip(f"two hosts are not possible here: {error}")
        yield hosts


@pytest.fixture(scope="module")
def alone(folder):
    train(1, [*FLAGS, "--output-dir", "alone", "--save", "alone.safetensors"], folder).ok()
    return steps(folder / "alone"), load_file(folder / "alone.safetensors")


@pytest.mark.parametrize("ranks", [(1, 1), (2, 2), (2, 1)])
def test_mpi_sees_two_nodes(hosts, tmp_path, ranks):
    done = hosts.run(ranks, ["-c", PROBE], tmp_path).ok()
    sizes = [ranks[0]] * ranks[0] + [ranks[1]] * ranks[1]
    assert json.loads(done.out.strip().splitlines()[-1]) == [2, sizes, min(ranks)]


@pytest.mark.parametrize("ranks", [(1, 1), (2, 2), (2, 1), (4, 4)], ids=str)
@pytest.mark.parametrize("sync", ["allreduce", "sharded", "hybrid"])
def test_two_hosts_train_as_one_rank_does(hosts, folder, alone, sync, ranks):
    losses, weights = alone
    name = f"{sync}-{ranks[0]}-{ranks[1]}"
    output = ["--sync", sync, "--output-dir", name, "--save", f"{name}.safetensors"]
    # The last --sync wins: SMALL has one, too.
    done = hosts.run(ranks, ["-m", "alexnet_dist.train", *SMALL, *FLAGS, *output], folder).ok()
    assert f"gradients: {sync} (as asked for)" in done.out
    ours = steps(folder / name)
    assert list(ours) == list(losses) == list(range(1, STEPS + 1))
    assert ours[1] == pytest.approx(losses[1], rel=1e-6)
    assert list(ours.values()) == pytest.approx(list(losses.values()), rel=1e-4)
    other = load_file(folder / f"{name}.safetensors")
    for key, value in weights.items():
        np.testing.assert_allclose(other[key], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=key)


@pytest.mark.parametrize("sync", ["sharded", "hybrid"])
def test_nothing_is_sent_twice(hosts, folder, sync):
    # Two hosts that sum N bytes have to send N bytes each: a half to be summed by the other, and the other half's sum.
    # The difference of two runs leaves out what is sent before the first step and after the last.
    sent, made = [], []
    for epochs in (1, 5):
        name = f"wire-{epochs}-{sync}"
        output = ["--sync", sync, "--epochs", epochs, "--output-dir", name, "--save", f"{name}.safetensors"]
        before = [hosts.one.sent(), hosts.two.sent()]
        hosts.run((2, 2), ["-m", "alexnet_dist.train", *SMALL, *FLAGS, *output], folder).ok()
        sent.append(np.subtract([hosts.one.sent(), hosts.two.sent()], before))
        made.append(len(steps(folder / name)))
    size = sum(value.nbytes for value in load_file(folder / f"wire-5-{sync}.safetensors").values())
    of_a_step = (sent[1] - sent[0]) / (made[1] - made[0])
    assert of_a_step == pytest.approx([size, size], rel=0.1)  # headers, and what the hosts say to each other
