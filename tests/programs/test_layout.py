"""How the layout of ranks and threads is chosen; measured for real with a small network."""

import os
import shlex
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from end_to_end.launcher import needs_mpirun

from alexnet_dist import layout
from alexnet_dist.errors import UserError
from alexnet_dist.layout import RankLayout, candidates, fastest, simplest
from alexnet_dist.machine import layouts
from alexnet_dist.training.flags import build_parser


def test_candidates_use_all_cores_and_give_each_rank_an_image():
    assert {(one.ranks, one.threads) for one in candidates(12, batch=5)} == {(1, 12), (2, 6), (3, 4), (4, 3)}
    assert candidates(1, batch=128) == [RankLayout(1, 1, "none")]
    assert [one.binding for one in candidates(2, 128)] == ["none", "none", "core"]


@pytest.mark.parametrize(
    ("mpi", "binding", "expected"),
    [
        ("MPICH", "core", "mpirun -bind-to core:3 -n 4 python -m alexnet_dist.train --threads 3 --lr 0.1"),
        ("Open MPI", "none", "mpirun --bind-to none -n 4 python -m alexnet_dist.train --threads 3 --lr 0.1"),
        (
            "Open MPI",
            "core",
            "mpirun --map-by slot:PE=3 --bind-to core -n 4 python -m alexnet_dist.train --threads 3 --lr 0.1",
        ),
    ],
)
def test_command_lines(mpi, binding, expected):
    assert shlex.join(RankLayout(4, 3, binding).command(mpi, "train", ["--lr", "0.1"])) == expected


def test_the_fastest_by_image_wins_and_one_that_fails_is_named(monkeypatch, capsys):
    said = {1: {"seconds": 1.0, "sync": "local"}, 2: {"seconds": 1.5, "sync": "hybrid"}, 4: "out of memory"}
    monkeypatch.setattr(layout, "which_mpi", lambda: "MPICH")
    monkeypatch.setattr(layout, "available_cores", lambda: 4)
    monkeypatch.setattr(layout, "measure", lambda one, *_, **__: said[one.ranks])
    # Of each rank 8 images: two ranks do 16 of them in 1.5 s, one rank 8 in 1 s.
    assert fastest(["--batch-size", "8"])[0].ranks == 2
    assert fastest(["--global-batch", "8"])[0].ranks == 1
    assert "4 x 1 (ranks x threads): could not run (out of memory)" in capsys.readouterr().err


def test_an_elastic_run_is_measured_and_started_as_it_needs(monkeypatch, capsys):
    monkeypatch.setattr(layout, "which_mpi", lambda: "Open MPI")
    monkeypatch.setattr(layout, "available_cores", lambda: 2)
    seconds = {1: 2.0, 2: 1.0}
    monkeypatch.setattr(
        layout,
        "measure",
        lambda one, *_, elastic: {"seconds": seconds[one.ranks], "sync": "allreduce"} if elastic else "not as asked",
    )
    assert layout.main(["--elastic", "--global-batch", "8"]) == 0
    assert capsys.readouterr().out == (
        "mpirun --with-ft ulfm --mca mpi_ft_detector true --bind-to none -n 2 "
        "python -m alexnet_dist.train --threads 1 --sync allreduce --elastic --global-batch 8\n"
    )


@needs_mpirun
def test_an_elastic_run_is_measured_with_its_strategy(monkeypatch):
    small = ["--width", "0.0625", "--image-size", "67", "--global-batch", "4", "--elastic"]
    result = layout.measure(RankLayout(2, 1, "none"), layout.which_mpi(), small, elastic=True)
    assert result["sync"] == "allreduce"


ONE, TWO, BOUND = RankLayout(1, 2, "none"), RankLayout(2, 1, "none"), RankLayout(2, 1, "core")


@pytest.mark.parametrize(
    ("seconds", "best", "said"),
    [
        ({ONE: 1.002, TWO: 1.01, BOUND: 1.0}, ONE, True),  # no winner by 0.2 %
        ({BOUND: 1.0, TWO: 1.019, ONE: 1.03}, TWO, True),
        ({ONE: 1.03, TWO: 1.1, BOUND: 1.0}, BOUND, False),
    ],
)
def test_what_is_within_the_noise_is_no_winner(seconds, best, said, capsys):
    assert simplest(seconds) == best
    assert ("within 2%" in capsys.readouterr().err) == said


def test_the_help_is_its_own(capsys):
    with pytest.raises(SystemExit):
        layout.main(["--help"])
    text = capsys.readouterr().out
    assert "alexnet-train --help" in text
    assert "--momentum" not in text
    assert len(text.splitlines()) < 24


@pytest.mark.parametrize("flags", [["--threads", "2"], ["--threads=2"]])
def test_threads_are_not_to_be_given(flags):
    with pytest.raises(UserError, match="--threads is what is to be chosen"):
        fastest(flags)


@needs_mpirun
def test_prints_a_command_line_that_the_trainer_takes(tmp_path):
    flags = ["--width", "0.0625", "--image-size", "67", "--global-batch", "4"]
    command = [sys.executable, "-m", "alexnet_dist.layout", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[0] == "mpirun"
    start = words.index("alexnet_dist.train") + 1
    args = build_parser().parse_args(words[start:])
    assert (args.width, args.global_batch) == (0.0625, 4)
    assert args.threads * int(words[words.index("-n") + 1]) == layout.available_cores()
    assert "images/s" in done.stderr


@needs_mpirun
def test_ranks_that_take_too_long_are_ended(monkeypatch):
    mark = uuid.uuid4().hex
    monkeypatch.setenv("ALEXNET_LAYOUT", mark)
    monkeypatch.setattr(layouts, "TIMEOUT", 1.5)
    small = ["--global-batch", "4000"]  # of the whole network: far longer than that
    assert layout.measure(RankLayout(2, 1, "none"), layout.which_mpi(), small) == "not done after 1.5 s"
    end = time.monotonic() + 20
    while marked(mark):
        assert time.monotonic() < end, marked(mark)
        time.sleep(0.05)


def marked(value):
    """The other processes whose environment has this value."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if value.encode() in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_bytes())
    return found


@needs_mpirun
def test_a_wrong_flag_is_said_once(tmp_path):
    command = [sys.executable, "-m", "alexnet_dist.layout", "--lr", "-1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.count("--lr is -1.0") == 1
