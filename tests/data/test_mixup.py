"""Mixup: shares of the Beta distribution, pictures against the definition, the same on any number of ranks and threads."""

import numpy as np
import pytest
from PIL import Image
from test_loader import collect, joined, same

from alexnet_dist.data.augment import Augmentation, load_for_training
from alexnet_dist.data.image_list import read_image_list
from alexnet_dist.data.loader import Batch, Loader
from alexnet_dist.data.mixup import mix_, own_share
from alexnet_dist.data.sharding import epoch_order
from alexnet_dist.support.randomness import Purpose, generator

SIZE, BATCH = 16, 6
BROKEN = {3: "truncated", 8: "missing"}


@pytest.fixture
def images(tmp_path):
    """19 images, the last batch of them being of one; two can't be read."""
    rng = np.random.default_rng(0)
    for index in range(19):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    truncated = tmp_path / "3.png"
    truncated.write_bytes(truncated.read_bytes()[:500])
    (tmp_path / "8.png").unlink()
    path = tmp_path / "images.list"
    path.write_text("".join(f"{index} {index}.png\n" for index in range(19)))
    return read_image_list(path)


def load_from(images):
    def load(index: int, epoch: int, out: np.ndarray) -> None:
        load_for_training(images.path(index), Augmentation(SIZE), generator(5, Purpose.AUGMENT, epoch, index), out)

    return load


def share(index: int, epoch: int) -> float:
    return own_share(0.7, 5, epoch, index)


def batches(images, mixed=True, epoch=1, first_step=0, **options) -> list[Batch]:
    loader = Loader(
        images,
        load=load_from(images),
        own_share=share if mixed else None,
        global_batch=BATCH,
        shape=(SIZE, SIZE, 3),
        shuffle=True,
        seed=5,
        **options,
    )
    result = []
    with loader:
        for batch in loader.batches(epoch, first_step):
            result.append(Batch(batch.images.copy(), batch.labels, batch.positions, batch.broken, batch.mixed))
    return result


def test_each_image_is_mixed_with_the_one_before_it(images):
    order = epoch_order(19, 5, 1)
    plain, mixed = batches(images, mixed=False), batches(images)
    for step, (one, both) in enumerate(zip(plain, mixed, strict=True)):
        samples = order[step * BATCH : (step + 1) * BATCH]
        assert one.mixed is None
        np.testing.assert_array_equal(both.labels, one.labels)
        assert both.broken == one.broken
        for row, sample in enumerate(samples):
            before = samples[row - 1]
            kept = 1.0 if {sample, before} & set(BROKEN) else share(sample, 1)
            assert both.mixed.shares[row] == np.float32(kept)
            assert both.mixed.labels[row] == before
            expected = kept * one.images[row].astype(np.float64) + (1 - kept) * one.images[row - 1]
            np.testing.assert_allclose(both.images[row], expected, atol=1e-6)
    assert sum(int((batch.mixed.shares < 1).sum()) for batch in mixed) >= 19 - 4
    assert len(mixed[-1].labels) == 1  # which is mixed with itself


@pytest.mark.parametrize(("size", "workers"), [(1, 3), (2, 1), (4, 3), (8, 2)])
def test_ranks_and_threads_do_not_change_the_mixture(images, size, workers):
    alone = batches(images)
    ranks = [batches(images, rank=rank, size=size, workers=workers) for rank in range(size)]
    for step, batch in enumerate(alone):
        parts = [own[step] for own in ranks]
        same(joined(tuple(parts)), batch)
        for column in (0, 1):
            of_ranks = [part.mixed[column] for part in parts if part.mixed is not None]
            np.testing.assert_array_equal(np.concatenate(of_ranks), batch.mixed[column])
        assert all(len(part.labels) == 0 for part in parts if part.mixed is None)


def test_a_resumed_epoch_is_mixed_the_same(images):
    whole = batches(images)
    for first in range(len(whole)):
        for resumed, batch in zip(batches(images, first_step=first), whole[first:], strict=True):
            same(resumed, batch)
            np.testing.assert_array_equal(resumed.mixed.shares, batch.mixed.shares)


def test_an_epoch_left_early_leaves_no_thread_waiting(images):
    with Loader(images, load=load_from(images), own_share=share, global_batch=4, shape=(SIZE, SIZE, 3)) as loader:
        first = loader.batches(0)
        next(first)
        first.close()
        assert len(list(loader.batches(0))) == 5


def test_an_exception_while_mixing_reaches_the_consumer(images):
    def load(index: int, epoch: int, out: np.ndarray) -> None:
        if index == 2:
            raise ZeroDivisionError("a mistake in the program")

    loader = Loader(images, load=load, own_share=share, global_batch=4, shape=(SIZE, SIZE, 3))
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        collect(loader)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_the_larger_of_beta(alpha):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    drawn = 4000
    theirs = torch._sample_dirichlet(torch.full((drawn, 2), alpha)).max(dim=1).values.numpy()  # as torchvision's script
    ours = np.array([own_share(alpha, 0, epoch, sample) for epoch in range(2) for sample in range(drawn // 2)])
    assert ours.min() >= 0.5
    assert ours.max() <= 1
    grid = np.quantile(theirs, np.linspace(0.02, 0.9, 40))
    shares = [np.searchsorted(np.sort(values), grid, side="right") / drawn for values in (ours, theirs)]
    assert abs(shares[0] - shares[1]).max() < 1.63 * np.sqrt(2 / drawn)


def test_mixing_is_torchvisions_roll():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((5, 4, 4, 3)).astype(np.float32)
    batch = torch.from_numpy(images.copy())
    expected = batch.roll(1, 0).mul(1 - 0.7).add(batch.mul(0.7)).numpy()
    mix_(images, images[-1].copy(), np.full(5, 0.7, np.float32), np.empty((4, 4, 3), np.float32))
    np.testing.assert_allclose(images, expected, atol=1e-6)
