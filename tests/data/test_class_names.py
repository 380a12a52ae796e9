"""Names of classes: what is read, and how those of a network are matched with those of a list."""

import pytest

from alexnet_dist.data.class_names import class_names_beside, class_order, match_classes, read_class_names
from alexnet_dist.errors import UserError


def test_class_names(tmp_path):
    assert class_names_beside(tmp_path / "images.list") is None
    (tmp_path / "classes.txt").write_bytes("\ufefftench\r\ngreat white shark\r\n\r\nfour\r\n\r\n".encode())
    assert class_names_beside(tmp_path / "images.list") == ["tench", "great white shark", "", "four"]
    with pytest.raises(UserError, match=r"none\.txt doesn't exist"):
        read_class_names(tmp_path / "none.txt")
    empty = tmp_path / "empty.txt"
    empty.write_bytes(b"\n")
    with pytest.raises(UserError, match="names no classes"):
        read_class_names(empty)


def test_the_same_names_in_another_order_are_matched():
    assert class_order(["cat", "dog", "eel"], ["eel", "cat", "dog"], "f") == [2, 0, 1]
    assert class_order(["cat", "dog"], ["cat", "dog"], "f") is None
    assert class_order(None, ["cat"], "f") is None
    assert class_order(["cat"], None, "f") is None


@pytest.mark.parametrize(
    ("trained", "wanted", "difference"),
    [
        (["Horse", "dog"], ["horse", "dog"], "only there: 'Horse'; only here: 'horse'"),
        (["a", "b", "c", "d"], ["e", "f", "g", "h"], r"only there: 'a', 'b', 'c', \.\.\.; only here: 'e'"),
        (["a", "a"], ["a", "b"], "only here: 'b'"),
        (["a", "b"], ["a", "a"], "only there: 'b'"),
        (["a", "a", "b"], ["a", "b", "b"], "more than once"),
    ],
)
def test_other_names_are_an_error_that_shows_the_difference(trained, wanted, difference):
    with pytest.raises(UserError, match=rf"^f was trained with other classes.*{difference}"):
        class_order(trained, wanted, "f")


@pytest.mark.parametrize(
    ("trained", "wanted", "names", "order"),
    [
        (["a", "b", "c"], None, ["a", "b", "c"], None),
        (None, ["a", "b", "c"], ["a", "b", "c"], None),
        (None, None, ["0", "1", "2"], None),
        (["a", "b", "c"], ["c", "a", "b"], ["c", "a", "b"], [2, 0, 1]),
    ],
)
def test_names_by_which_results_are_told(trained, wanted, names, order):
    assert match_classes(trained, wanted, 3, "net") == (names, order)


@pytest.mark.parametrize(("trained", "wanted"), [(None, ["a", "b"]), (["a", "b"], ["a", "b"]), (["a", "b"], None)])
def test_names_of_another_number(trained, wanted):
    with pytest.raises(UserError, match=r"2 class names for the 3 classes of net\b"):
        match_classes(trained, wanted, 3, "net")


def test_a_single_name_for_more_classes():
    with pytest.raises(UserError, match=r"^1 class name for the 2 classes of net: give"):
        match_classes(None, ["a"], 2, "net")
