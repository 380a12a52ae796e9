"""Batches: the same for any number of ranks and threads and from any step; broken images; what a buffer promises."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.data import loader as loader_module
from alexnet_dist.data.augment import Augmentation, load_for_training
from alexnet_dist.data.decode import ImageError
from alexnet_dist.data.image_list import ImageList, read_image_list
from alexnet_dist.data.loader import Batch, Loader
from alexnet_dist.support.randomness import Purpose, generator

SIZE = 16


@pytest.fixture
def images(tmp_path) -> ImageList:
    """23 images, of which the one on line 4 is truncated and the one on line 9 is missing."""
    rng = np.random.default_rng(0)
    for index in range(23):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    truncated = tmp_path / "3.png"
    truncated.write_bytes(truncated.read_bytes()[:1000])
    (tmp_path / "8.png").unlink()
    path = tmp_path / "images.list"
    path.write_text("".join(f"{index % 5} {index}.png\n" for index in range(23)))
    return read_image_list(path)


def numbered(tmp_path: Path, count: int) -> ImageList:
    """A list of images that don't exist, for loaders that make their own pixels."""
    path = tmp_path / "numbered.list"
    path.write_text("".join(f"{index} {index}.png\n" for index in range(count)))
    return read_image_list(path)


def write_index(index: int, epoch: int, out: np.ndarray) -> None:
    out.fill(1000 * epoch + index)


def augmented(images: ImageList, **options: int) -> Loader:
    def load(index: int, epoch: int, out: np.ndarray) -> None:
        rng = generator(5, Purpose.AUGMENT, epoch, index)
        load_for_training(images.path(index), Augmentation(SIZE, color_noise=True), rng, out)

    return Loader(images, load=load, global_batch=6, shape=(SIZE, SIZE, 3), shuffle=True, seed=5, **options)


def collect(loader: Loader, epoch: int = 0, first_step: int = 0) -> list[Batch]:
    with loader:
        return [
            Batch(batch.images.copy(), batch.labels, batch.positions, batch.broken)
            for batch in loader.batches(epoch, first_step)
        ]


def same(one: Batch, other: Batch) -> None:
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.positions, other.positions)
    assert one.broken == other.broken


def joined(parts: tuple[Batch, ...]) -> Batch:
    images, labels, positions = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels", "positions")
    )
    return Batch(images, labels, positions, [problem for part in parts for problem in part.broken])


@pytest.mark.parametrize(("size", "workers"), [(1, 3), (2, 1), (4, 3), (8, 1)])
def test_ranks_and_threads_do_not_change_the_global_batch(images, size, workers):
    alone = collect(augmented(images, workers=1), epoch=2)
    ranks = [collect(augmented(images, rank=rank, size=size, workers=workers), epoch=2) for rank in range(size)]
    assert [len(batch.labels) for batch in alone] == [6, 6, 6, 5]
    for step, batch in enumerate(alone):
        same(joined(tuple(batches[step] for batches in ranks)), batch)
        np.testing.assert_array_equal(batch.positions, np.arange(len(batch.labels)))


def test_resumed_epoch_continues_as_if_it_had_not_stopped(images):
    whole = collect(augmented(images), epoch=1)
    for first in range(len(whole) + 1):
        rest = collect(augmented(images), epoch=1, first_step=first)
        assert len(rest) == len(whole) - first
        for resumed, batch in zip(rest, whole[first:], strict=True):
            same(resumed, batch)


def test_epochs_differ_in_order_and_crops(images):
    first, second = (joined(tuple(collect(augmented(images), epoch))) for epoch in (0, 1))
    assert first.labels.tolist() != second.labels.tolist()
    assert sorted(first.labels) == sorted(second.labels)
    assert not {row.tobytes() for row in first.images if row.any()} & {row.tobytes() for row in second.images}


def test_broken_images_are_zero_rows_without_label(images):
    for batches in (collect(augmented(images, workers=workers)) for workers in (1, 3)):
        batch = joined(tuple(batches))
        broken = batch.labels == -1
        assert broken.sum() == 2
        assert not batch.images[broken].any()
        assert all(row.any() for row in batch.images[~broken])
        folder = images.source.parent
        assert sorted(batch.broken) == [
            f"{folder}/images.list:4: {folder}/3.png is truncated",
            f"{folder}/images.list:9: {folder}/8.png is missing",
        ]
        assert sum(len(one.broken) for one in batches) == 2


def test_message_about_a_path_that_is_not_utf8_can_be_written(tmp_path):
    path = tmp_path / "images.list"
    path.write_bytes(b"0 caf\xe9.png\n")
    images = read_image_list(path)
    (batch,) = collect(augmented(images))
    assert batch.broken[0].endswith("caf\\xe9.png is missing")
    assert batch.broken[0].encode()


def test_without_shuffle_the_order_is_the_lists(tmp_path):
    images = numbered(tmp_path, 10)
    batches = collect(Loader(images, load=write_index, global_batch=4, shape=(2, 2, 3)), epoch=3)
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    np.testing.assert_array_equal(joined(tuple(batches)).images[:, 0, 0, 0], 3000 + np.arange(10))
    assert batches[0].images.dtype == np.float32
    assert batches[0].images.shape == (4, 2, 2, 3)
    assert batches[0].labels.dtype == batches[0].positions.dtype == np.int64


def test_rank_without_images_in_the_last_step_still_has_the_step(tmp_path):
    images = numbered(tmp_path, 9)
    batches = collect(Loader(images, load=write_index, global_batch=8, shape=(2, 2, 3), rank=0, size=2))
    assert [len(batch.labels) for batch in batches] == [4, 0]
    assert batches[1].images.shape == (0, 2, 2, 3)


def test_next_batch_is_decoded_while_this_one_is_used_and_does_not_touch_it(tmp_path):
    done: list[int] = []

    def load(index: int, epoch: int, out: np.ndarray) -> None:
        write_index(index, epoch, out)
        done.append(index)

    with Loader(numbered(tmp_path, 20), load=load, global_batch=4, shape=(2, 2, 3), workers=2) as loader:
        for step, batch in enumerate(loader.batches(0)):
            wanted = {*range(min(4 * (step + 2), 20))}
            deadline = time.monotonic() + 10
            while not wanted <= {*done}:  # the next batch comes without being asked for
                assert time.monotonic() < deadline
                time.sleep(0.001)
            assert {*done} == wanted
            np.testing.assert_array_equal(batch.images[:, 1, 1, 2], 4 * step + np.arange(4))


def test_views_belong_to_two_buffers_made_once(tmp_path):
    with Loader(numbered(tmp_path, 20), load=write_index, global_batch=4, shape=(2, 2, 3)) as loader:
        addresses = {batch.images.ctypes.data for epoch in range(2) for batch in loader.batches(epoch)}
    assert len(addresses) == 2


def test_exception_of_a_thread_reaches_the_consumer_with_the_line(tmp_path):
    def load(index: int, epoch: int, out: np.ndarray) -> None:
        if index == 5:
            raise ZeroDivisionError("a mistake in the program")

    with Loader(numbered(tmp_path, 20), load=load, global_batch=2, shape=(2, 2, 3), workers=2) as loader:
        batches = loader.batches(0)
        next(batches), next(batches)
        with pytest.raises(ZeroDivisionError, match="a mistake") as caught:
            next(batches)
        assert caught.value.__notes__[0].endswith(f"numbered.list:6: {tmp_path}/5.png")
        assert len(list(loader.batches(0, first_step=3))) == 7


def test_closing_early_cancels_what_has_not_begun(tmp_path, monkeypatch):
    begun: list[int] = []
    release = threading.Event()

    def load(index: int, epoch: int, out: np.ndarray) -> None:
        begun.append(index)
        if index >= 4:
            release.wait(10)
        out.fill(index)

    with Loader(numbered(tmp_path, 400), load=load, global_batch=4, shape=(2, 2, 3), workers=1) as loader:
        batches = loader.batches(0)
        next(batches)
        wait = loader_module.wait
        # All is cancelled that has not begun when it waits for the rest.
        monkeypatch.setattr(loader_module, "wait", lambda *args: release.set() or wait(*args))
        batches.close()
        assert 4 <= len(begun) <= 5
        count = len(begun)
        time.sleep(0.05)
        assert len(begun) == count
        assert len(next(iter(loader.batches(1))).labels) == 4


def test_a_read_that_hangs_is_left_behind(tmp_path):
    """What it may write yet goes into buffers that nobody looks at any more."""
    release = threading.Event()
    hung: list[np.ndarray] = []

    def load(index: int, epoch: int, out: np.ndarray) -> None:
        if epoch == 0 and index == 5:
            hung.append(out)
            release.wait(60)
        out.fill(index)

    start = time.monotonic()
    with Loader(numbered(tmp_path, 20), load=load, global_batch=4, shape=(2, 2, 3), workers=2) as loader:
        batches = loader.batches(0)
        next(batches)
        while not hung:
            time.sleep(0.001)
        batches.close()
        assert not any(np.shares_memory(batch.images, hung[0]) for batch in loader.batches(1))
    assert time.monotonic() - start < 30
    release.set()


def test_a_process_ends_though_a_read_hangs(tmp_path):
    program = f"""
import threading
from pathlib import Path
from alexnet_dist.data.image_list import read_image_list
from alexnet_dist.data.loader import Interrupted, Loader
from alexnet_dist.data.storage import Patience

hangs = threading.Event()

def load(index, epoch, out):
    hangs.set()
    threading.Event().wait(60)

images = read_image_list(Path({str(numbered(tmp_path, 20).source)!r}))
with Loader(images, load=load, global_batch=4, shape=(2, 2, 3), workers=2, patience=Patience(60, stop=hangs.is_set)) as loader:
    try:
        next(loader.batches(0))
    except Interrupted:
        print("interrupted", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_exception_in_the_consumer_leaves_no_thread_behind(tmp_path):
    def consume() -> None:
        with Loader(numbered(tmp_path, 50), load=write_index, global_batch=4, shape=(2, 2, 3), workers=3) as loader:
            for _ in loader.batches(0):
                raise KeyError("the consumer's own")

    before = threading.active_count()
    with pytest.raises(KeyError) as caught:  # its traceback keeps the iterator alive beyond close()
        consume()
    assert threading.active_count() == before
    caught.value.with_traceback(None)


def test_second_pass_at_the_same_time_is_refused(tmp_path):
    with Loader(numbered(tmp_path, 8), load=write_index, global_batch=4, shape=(2, 2, 3)) as loader:
        first = loader.batches(0)
        next(first)
        with pytest.raises(RuntimeError, match="one pass at a time"):
            next(loader.batches(0))
        first.close()
        assert len(list(loader.batches(0))) == 2


def test_steps(tmp_path):
    for count, batch, steps in [(8, 4, 2), (9, 4, 3), (1, 128, 1)]:
        with Loader(numbered(tmp_path, count), load=write_index, global_batch=batch, shape=(2, 2, 3)) as loader:
            assert loader.steps == steps


def test_a_row_half_written_before_the_error_is_zero(tmp_path):
    def load(index: int, epoch: int, out: np.ndarray) -> None:
        out[0] = 7
        raise ImageError("is truncated")

    (batch,) = collect(Loader(numbered(tmp_path, 3), load=load, global_batch=4, shape=(2, 2, 3)))
    assert not batch.images.any()
    assert batch.labels.tolist() == [-1, -1, -1]
