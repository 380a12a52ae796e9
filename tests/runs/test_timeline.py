"""Which rank is slow, and in what."""

import pytest

from alexnet_dist.runs.timeline import WORK_PHASES, slowest

TYPICAL = dict(zip(WORK_PHASES, (1.0, 3.0, 6.0, 2.0), strict=True)) | {"wait": 0.5}


def test_one_rank_is_neither_slow_nor_fast():
    assert slowest([TYPICAL], ["a"]) == ""


@pytest.mark.parametrize("extra", [0.0, 0.2])  # of 12 s; waiting is not counted
def test_ranks_that_work_equally_long(extra):
    ranks = [TYPICAL, TYPICAL | {"update": 2.0 + extra, "wait": 99.0}, TYPICAL]
    assert slowest(ranks, ["a", "b", "c"]) == "all ranks work equally long: 12.0 s of work each, within 2%"


def test_a_tenth_of_a_second_makes_no_rank_slow():
    """In a short epoch that is much of the work, and noise."""
    quick = {phase: value / 40 for phase, value in TYPICAL.items()}
    told = slowest([quick, quick | {"data": 0.12}], ["a", "b"])
    assert told == "all ranks work equally long: 0.3 s of work each, within 0.1 s"
    assert slowest([quick, quick | {"data": 0.30}], ["a", "b"]).startswith("slowest: rank 1 on b, 0.6 s of work")


def test_the_slowest_is_named_with_its_phase_and_host():
    ranks = [TYPICAL, TYPICAL | {"backward": 8.4, "data": 1.1}, TYPICAL | {"forward": 3.1}]
    sentence = "slowest: rank 1 on b, 14.5 s of work, 20% more than the median; most of it in backward (+2.4 s)"
    assert slowest(ranks, ["a", "b", "c"]) == sentence


def test_no_work_at_all_is_even():
    idle = dict.fromkeys(WORK_PHASES, 0.0)
    assert slowest([idle, idle], ["a", "b"]).startswith("all ranks work equally long")
    assert "rank 1" in slowest([idle, idle, idle | {"data": 1.0}][1:], ["a", "b"])
