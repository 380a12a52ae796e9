"""The team of threads and its scratch memory."""

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import ALIGNMENT, Workspace, empty, zeros


@pytest.fixture(params=[1, 2, 5])
def team(request):
    with Team(request.param) as team:
        yield team


def test_run_calls_every_thread_once_with_its_own_workspace(team):
    seen = {}
    team.run(lambda index, workspace: seen.setdefault(index, (threading.get_ident(), workspace)))
    assert sorted(seen) == list(range(team.size))
    assert len({thread for thread, _ in seen.values()}) == team.size
    assert [seen[index][1] for index in range(team.size)] == team.workspaces


@pytest.mark.parametrize("count", [0, 1, 7, 23])
def test_all_ways_to_divide_cover_everything_once(team, count):
    blocks, chunks, places = np.zeros(count, int), np.zeros(count, int), np.zeros((count, 3), int)

    def block(lo, hi, workspace):
        assert hi - lo <= 3
        blocks[lo:hi] += 1

    def chunk(part, workspace):
        assert part.stop - part.start <= 2
        chunks[part] += 1

    def row(images, rows, workspace):
        assert 1 <= images.stop - images.start <= 2
        assert images.stop - images.start == 1 or rows == slice(0, 3)
        places[images, rows] += 1

    team.for_each(count, 3, block)
    team.for_chunks(count, 2, chunk)
    team.for_rows(count, 3, 2, row)
    assert (blocks == 1).all()
    assert (chunks == 1).all()
    assert (places == 1).all()


def test_a_fixed_team_divides_alike_with_any_number_of_threads():
    ways = []
    for threads in (1, 2, 5):
        with Team(threads, fixed=True) as team:
            chunks, rows = [], []
            team.for_chunks(23, 2, lambda part, _, chunks=chunks: chunks.append((part.start, part.stop)))
            team.for_rows(
                3, 7, 2, lambda images, part, _, rows=rows: rows.append((images.start, part.start, part.stop))
            )
            ways.append((sorted(chunks), sorted(rows)))
    assert ways[0] == ways[1] == ways[2]
    with Team(5) as team:
        other = []
        team.for_chunks(23, 2, lambda part, _: other.append((part.start, part.stop)))
    assert sorted(other) != ways[0][0]


def test_an_exception_in_any_thread_reaches_the_caller_and_the_team_goes_on(team):
    for culprit in range(team.size):

        def task(index, workspace, culprit=culprit):
            if index == culprit:
                raise RuntimeError(f"thread {index}")

        with pytest.raises(RuntimeError, match=f"thread {culprit}"):
            team.run(task)
    total = []
    team.run(lambda index, workspace: total.append(index))
    assert len(total) == team.size


def test_blas_has_one_thread_in_a_team_and_its_own_after():
    before = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    with Team(2):
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
    assert [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"] == before


def test_a_team_without_threads_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Team(0)


def test_workspace_is_a_stack_that_reuses_its_memory():
    workspace = Workspace()
    addresses = []
    for _ in range(2):
        with workspace.frame():
            a = workspace.take((3, 5))
            with workspace.frame():
                b = workspace.take((7,), np.uint8)
            c = workspace.take((2,), np.bool_)
            assert a.shape == (3, 5)
            assert b.ctypes.data == c.ctypes.data  # b was given back
            assert not np.shares_memory(a, c)
            addresses.append((a.ctypes.data, c.ctypes.data))
    assert addresses[0] == addresses[1]


def test_a_workspace_that_grows_leaves_live_arrays_alone():
    workspace = Workspace()
    with workspace.frame():
        small = workspace.take((4,))
        small.fill(1)
        with workspace.frame():
            workspace.take((2,))
        large = workspace.take((1000,))
        large.fill(2)
        assert (small == 1).all()


def test_arrays_begin_on_cache_lines():
    for shape in ((1,), (3, 5), (1000,)):
        for make in (empty, zeros):
            array = make(shape)
            assert array.ctypes.data % ALIGNMENT == 0
            assert array.shape == shape
            assert array.flags.c_contiguous
    assert empty((0, 4)).shape == (0, 4)
    assert not zeros((100,)).any()


def test_an_interruption_in_the_middle_of_a_task_ends_the_team():
    """As by SIGINT: the caller leaves `run` while threads are still at work, and must not wait for them."""
    go_on = threading.Event()

    def task(index, workspace):
        if index:
            go_on.wait(20)

    def interrupted(*_):
        raise KeyboardInterrupt

    def use():
        with Team(3) as team:
            threads.extend(team._threads)
            team._end.wait = interrupted
            team.run(task)

    threads = []
    with pytest.raises(KeyboardInterrupt):
        use()
    go_on.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("place", ["_start", "_end", "task"])
def test_after_an_interruption_the_team_works_as_before(place):
    """As by SIGINT at any moment: with the barriers, before or after its own work, it leaves `run` half-way."""

    class Interrupted(threading.Barrier):
        def wait(self, timeout=None):
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return super().wait(timeout)

    def task(index, workspace):
        if place == "task" and index == 0:
            raise KeyboardInterrupt
        time.sleep(0.01 * index)
        raise ValueError("which nobody hears of any more")

    with Team(3) as team:
        before = {barrier: getattr(team, barrier) for barrier in ("_start", "_end")}
        if place in before:
            before[place].__class__ = Interrupted
        for _ in range(2):  # the second time with threads that have been started anew
            with pytest.raises(KeyboardInterrupt):
                team.run(task)
            done = np.zeros(3, int)
            team.run(lambda index, workspace, done=done: np.add.at(done, index, 1))
            assert (done == 1).all()
            if place in before:
                getattr(team, place).__class__ = Interrupted
        with pytest.raises(KeyboardInterrupt):
            team.run(task)
    assert not any(thread.name.startswith("team-") for thread in threading.enumerate())
