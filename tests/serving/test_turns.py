"""How requests share the network: together as far as they wait, in their order, with their own result, within a bound."""

import asyncio
import threading

import numpy as np
import pytest

from alexnet_dist.model.explain import Explained
from alexnet_dist.serving.turns import Full, Turns


class Network:
    """Adds 1 to each crop's only pixel; notes the batches, waits for `go`, fails for a pixel of 13."""

    def __init__(self):
        self.go, self.began, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, crops, maps):
        self.began.set()
        assert self.go.wait(20)
        pixels = crops.reshape(-1)
        self.batches.append((pixels.tolist(), maps))
        if 13 in pixels:
            raise RuntimeError("thirteen")
        heat = np.zeros((len(pixels), 1, 1), np.float32)
        return pixels + 1, Explained(pixels, [], heat, np.zeros(1), 1) if maps else None


def crop(value):
    return np.full((1, 1, 1), value, np.float32)


async def all_answers(turns, network, values, maps=()):
    """The results for these values: the first one is being computed before the others come."""
    running = asyncio.create_task(turns.run())
    first = asyncio.create_task(turns.answer(crop(values[0]), False))
    await asyncio.to_thread(network.began.wait, 20)
    others = [asyncio.create_task(turns.answer(crop(value), value in maps)) for value in values[1:]]
    await asyncio.sleep(0)
    network.go.set()
    results = await asyncio.gather(first, *others, return_exceptions=True)
    running.cancel()
    return results


def test_those_who_wait_are_computed_together_in_their_order():
    network = Network()
    results = asyncio.run(all_answers(Turns(network, 4, 10), network, [0, 1, 2, 3, 4, 5, 6], maps=[5]))
    assert network.batches == [([0], False), ([1, 2, 3, 4], False), ([5, 6], True)]
    assert [value for value, _, _ in results] == [1, 2, 3, 4, 5, 6, 7]
    assert [index for _, _, index in results] == [0, 0, 1, 2, 3, 0, 1]
    assert [explained is not None for _, explained, _ in results] == [False] * 5 + [True, False]


def test_a_failure_is_that_of_its_batch_alone():
    network = Network()
    results = asyncio.run(all_answers(Turns(network, 2, 10), network, [0, 12, 13, 14]))
    assert [isinstance(result, RuntimeError) for result in results] == [False, True, True, False]
    assert results[3][0] == 15


def test_there_are_so_many_places():
    turns = Turns(Network(), 2, most=2)
    with turns.place():
        with turns.place():
            assert turns.waiting == 2
            with pytest.raises(Full), turns.place():
                pass
        with turns.place():
            assert turns.waiting == 2
    assert turns.waiting == 0


def test_who_has_gone_is_not_computed():
    network = Network()

    async def leave():
        turns = Turns(network, 8, 10)
        running = asyncio.create_task(turns.run())
        first = asyncio.create_task(turns.answer(crop(0), False))
        await asyncio.to_thread(network.began.wait, 20)
        gone, stays = (asyncio.create_task(turns.answer(crop(value), False)) for value in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        network.go.set()
        results = (await first)[0], (await stays)[0]
        running.cancel()
        return results

    assert asyncio.run(leave()) == (1, 3)
    assert [pixels for pixels, _ in network.batches] == [[0], [2]]
