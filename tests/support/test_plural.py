"""One thing, several things."""

from alexnet_dist.support.plural import plural


def test_one_and_several():
    assert [plural(count, "step") for count in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
