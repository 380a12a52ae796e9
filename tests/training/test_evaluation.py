"""Evaluation in one process: ten crops, classes in another order, and what is written of each image and class."""

import csv
import errno
from io import StringIO

import numpy as np
import pytest
from PIL import Image
from small import make_net

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.data.augment import load_for_evaluation, load_ten_crops_for_evaluation
from alexnet_dist.data.image_list import read_image_list
from alexnet_dist.data.loader import Interrupted
from alexnet_dist.data.storage import Patience
from alexnet_dist.errors import SharedError
from alexnet_dist.kernels.loss import softmax
from alexnet_dist.support.threads import Team
from alexnet_dist.training.evaluation import Evaluation, evaluate
from alexnet_dist.training.predictions import (
    Prediction,
    Predictions,
    confusion,
    confusion_csv,
    per_class_csv,
    predictions_csv,
)
from alexnet_dist.training.progress import Sums

COUNT = 11


@pytest.fixture
def images(tmp_path):
    """A list of 11 images of 7 classes; one more line, the fourth, is broken."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number % 7} {number}.png")
    lines.insert(3, "1 gone.png")
    (tmp_path / "images.list").write_text("\n".join(lines))
    return read_image_list(tmp_path / "images.list")


class OneOfThree(Ranks):
    """A rank of three; the others have seen an image each, and tell nothing else."""

    size = 3

    def __init__(self, rank):
        self.rank = rank

    def sum(self, values):
        stop_or_fail = len(values) == 2  # which the others don't
        return values if stop_or_fail else [value + 2 for value in values]


def observed(net, images, world=None, **options):
    seen = {}

    def observe(places, labels, logits):
        assert not seen.keys() & set(places.tolist())
        seen.update(zip(places.tolist(), zip(labels.tolist(), logits.copy(), strict=True), strict=True))

    return evaluate(net, images, world or Ranks(), 2, observe=observe, **options), seen


@pytest.mark.parametrize(("ten_crop", "batch"), [(False, 4), (False, 32), (True, 10), (True, 25)])
def test_every_image_once(images, ten_crop, batch):
    crops, load = (10, load_ten_crops_for_evaluation) if ten_crop else (1, load_for_evaluation)
    with Team(2) as team:
        net, _ = make_net(team, batch=batch, training=False)
        result, seen = observed(net, images, ten_crop=ten_crop)
        assert sorted(seen) == [0, 1, 2, *range(4, 12)]
        assert [message.split(": ")[1] for message in result.broken] == [str(images.path(3)) + " is missing"]
        losses, right = [], 0
        for place, (label, logits) in seen.items():
            assert label == images.labels[place]
            row = np.empty((crops, 67, 67, 3), np.float32)
            load(images.path(place), 67, row if ten_crop else row[0])
            each = np.concatenate([net.forward(crop[None]).astype(np.float64) for crop in row])
            mean = softmax(each).mean(axis=0)
            np.testing.assert_allclose(softmax(logits[None])[0], mean, rtol=1e-4)
            losses.append(-np.log(mean[label]))
            right += mean.argmax() == label
    assert (result.images, int(result.sums.top1)) == (COUNT, right)
    assert result.means()["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_ranks_compute_the_same_bits(images):
    with Team(2) as team:
        net, _ = make_net(team, batch=2, training=False)
        _, alone = observed(net, images)
        parts = [observed(net, images, OneOfThree(rank))[1] for rank in range(3)]
    assert sorted(place for part in parts for place in part) == sorted(alone)
    for part in parts:
        for place, (_, logits) in part.items():
            assert np.array_equal(logits, alone[place][1])


def test_all_ranks_make_as_many_passes(images):
    with Team(1) as team:
        net, _ = make_net(team, batch=5, training=False)  # blocks of 5, 5, 2 for 3 ranks, and of 5, 1 for 2 of them
        passes = []
        forward = net.forward
        net.forward = lambda x: passes.append(len(x)) or forward(x)
        for rank in range(3):
            observed(net, images, OneOfThree(rank))
            observed(net, images.subset(np.arange(6)), OneOfThree(rank))
    assert passes == [5, 5, 5, 1, 2, 0]


def test_nothing_readable(images):
    with Team(1) as team:
        net, _ = make_net(team, training=False)
        with pytest.raises(SharedError, match=r"none of the images .*gone\.png is missing"):
            observed(net, images.subset(np.array([3])))


class OtherStops(Ranks):
    """A rank of two, of which the other is asked to stop when it has seen a block."""

    size, asked = 2, 0

    def sum(self, values):
        self.asked += 1
        return [values[0] + (self.asked == 2), values[1]]


def test_validation_stops_on_all_ranks_together(images):
    with Team(1) as team:
        net, _ = make_net(team, batch=2, training=False)
        passes = []
        forward = net.forward
        net.forward = lambda x: passes.append(len(x)) or forward(x)
        with pytest.raises(Interrupted):
            observed(net, images, OtherStops())
        assert len(passes) == 1
        with pytest.raises(Interrupted):
            observed(net, images, patience=Patience(stop=lambda: True))


def test_storage_that_fails_ends_validation_on_all_ranks(images, monkeypatch):
    def open_image(self, index):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(type(images), "open", open_image)
    with Team(1) as team:
        net, _ = make_net(team, batch=2, training=False)
        with pytest.raises(SharedError, match="can't be read") as raised:
            observed(net, images)
    assert raised.value.exit_code == 75


def test_classes_in_another_order(images):
    order = [3, 0, 1, 2, 6, 5, 4]
    with Team(1) as team:
        net, _ = make_net(team, batch=4, training=False)
        _, plain = observed(net, images)
        result, mapped = observed(net, images, order=order)
    for place, (label, logits) in mapped.items():
        assert np.array_equal(logits, plain[place][1][order])
        assert label == images.labels[place]
    right = sum(int(logits.argmax() == label) for label, logits in mapped.values())
    assert result.sums.top1 == right


def test_top_5_only_where_there_are_more_classes():
    few, many = (str(Evaluation(Sums(3.0, 1, 4, 4), (), classes)) for classes in (5, 6))
    assert "top-5" not in few
    assert "top-5 100.00% (4)" in many
    assert "top5" not in Sums(3.0, 1, 4, 4).means(5)


# Files


PREDICTIONS = [
    Prediction(0, 0, [0, 2], [0.5, 0.25]),
    Prediction(1, 0, [1, 0], [1 / 3, 0.3]),
    Prediction(2, 1, [1, 2], [1, 0]),
]
CLASS_NAMES = ["cat, small", 'the "dog"', "Vögel"]


def rows(text):
    return list(csv.reader(StringIO(text)))


def test_predictions_as_csv():
    text = predictions_csv(PREDICTIONS, CLASS_NAMES, [b"a b.png", b"x,\xff.png", b"c\nd.png"].__getitem__)
    assert rows(text) == [
        ["image", "class", "predicted_1", "probability_1", "predicted_2", "probability_2"],
        ["a b.png", CLASS_NAMES[0], CLASS_NAMES[0], "0.5", CLASS_NAMES[2], "0.25"],
        ["x,\\xff.png", CLASS_NAMES[0], CLASS_NAMES[1], "0.333333", CLASS_NAMES[0], "0.3"],
        ["c\\nd.png", CLASS_NAMES[1], CLASS_NAMES[1], "1", CLASS_NAMES[2], "0"],
    ]


def test_confusion_and_classes_as_csv():
    counts = confusion(PREDICTIONS, 3)
    assert rows(confusion_csv(counts, CLASS_NAMES)) == [
        ["class", *CLASS_NAMES],
        [CLASS_NAMES[0], "1", "1", "0"],
        [CLASS_NAMES[1], "0", "1", "0"],
        [CLASS_NAMES[2], "0", "0", "0"],
    ]
    assert rows(per_class_csv(counts, CLASS_NAMES)) == [
        ["class", "images", "correct", "accuracy", "precision"],
        [CLASS_NAMES[0], "2", "1", "0.500000", "1.000000"],
        [CLASS_NAMES[1], "1", "1", "1.000000", "0.500000"],
        [CLASS_NAMES[2], "0", "0", "", ""],
    ]


def test_predictions_are_collected_in_the_lists_order():
    collected = Predictions(2)
    logits = np.log(np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]], np.float32))
    collected.add(np.array([7, 2]), np.array([1, 0]), logits)
    first, second = collected.gathered(Ranks())
    assert (first.place, first.label, first.classes) == (2, 0, [0, 2])
    assert (second.place, second.label, second.classes) == (7, 1, [1, 2])
    assert second.probabilities == pytest.approx([0.6, 0.3])


@pytest.mark.parametrize(("ranks", "told"), [(Ranks(), [5, 10, 12]), (OneOfThree(1), [12])])
def test_how_far_it_has_come(images, ranks, told):
    """Of all ranks together."""
    heard = []
    with Team(1) as team:
        net, _ = make_net(team, batch=5, training=False)
        observed(net, images, ranks, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(done, 12) for done in told]
