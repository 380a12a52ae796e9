"""What predictions.csv says, class by class."""

from pathlib import Path

import pytest
from run_folder import CLASSES

from alexnet_dist.errors import UserError
from alexnet_dist.reporting.predictions import Predicted, best_and_worst, confusion, read_predictions


def predicted(label: str, best: str, probability: float = 0.9) -> Predicted:
    return Predicted(f"{label}.jpg", label, (best, "other"), (probability, 1 - probability))


def test_a_run_s_predictions_are_read(runs: list[Path]) -> None:
    first, *others = read_predictions(runs[0] / "predictions.csv")
    assert first == Predicted("0 & more.jpg", CLASSES[0], (CLASSES[1], CLASSES[0]), (0.6, 0.4))
    assert len(others) == 23
    assert others[0].right
    assert read_predictions(runs[0] / "nothing.csv") == []


@pytest.mark.parametrize("text", ["", "image,label\n", "image,class,predicted_1,probability_1\na.jpg,cat,cat,much\n"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(UserError, match=r"predictions\.csv can't be read as predictions"):
        read_predictions(tmp_path / "predictions.csv")


def test_counts_by_class() -> None:
    given = [predicted("a", "a"), predicted("a", "b"), predicted("a", "b"), predicted("b", "b")]
    counts = confusion(given, ["a", "b", "c"])
    assert counts.counts.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    worst, *_, last = counts.classes()
    assert worst == {"class": "a", "images": 3, "correct": 1, "accuracy": 1 / 3, "precision": 1.0}
    assert last == {"class": "c", "images": 0, "correct": 0, "accuracy": None, "precision": None}
    assert counts.pairs(5) == [{"class": "a", "taken for": "b", "images": 2, "share": 2 / 3}]


def test_classes_without_names_are_numbers_in_their_order() -> None:
    given = [predicted("10", "9"), predicted("9", "9")]
    assert confusion(given, None).names == ["9", "10"]
    assert confusion(given, ["cats", "dogs"]).names == ["9", "10"]  # names that came later than the run


def test_of_many_classes_those_with_mistakes_are_kept() -> None:
    names = [str(number) for number in range(100)]
    given = [predicted(name, name) for name in names] + [predicted("7", "3"), predicted("50", "3")]
    part = confusion(given, names).reduced(3)
    assert part.names == ["3", "7", "50"]
    assert part.counts.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_the_surest_come_first() -> None:
    given = [predicted("a", "a", 0.6), predicted("b", "a", 0.7), predicted("c", "c", 0.95), predicted("d", "a", 0.99)]
    best, worst = best_and_worst(given, 2)
    assert [one.label for one in best] == ["c", "a"]
    assert [one.label for one in worst] == ["d", "b"]
    assert [one.label for one in best_and_worst(given, 1)[0]] == ["c"]
