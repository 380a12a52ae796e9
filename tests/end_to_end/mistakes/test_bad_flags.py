"""Flags with a mistake, of training and of evaluation, and places where nothing can be written: one clear message."""

import os
import shutil
import sys

import pytest
from hashing import hashes
from launcher import MPIRUN, SMALL, alone, assert_refused, needs_mpirun, on_ranks
from refusals import BASE, refuses

pytestmark = needs_mpirun


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--bogus", ("--bogus",)),
        ("--epochs 0", ("--epochs", "0", "at least 1")),
        ("--epochs many", ("--epochs", "many")),
        ("--lr -1", ("--lr", "-1", "more than 0")),
        ("--lr nan", ("--lr", "nan")),
        ("--lr inf", ("--lr", "inf")),
        ("--weight-decay inf", ("--weight-decay", "inf")),
        ("--momentum 1", ("--momentum", "1")),
        ("--dropout 1", ("--dropout", "1")),
        ("--width inf", ("--width", "inf")),
        ("--image-size 10", ("--image-size", "10")),
        ("--batch-size 0", ("--batch-size", "0")),
        ("--global-batch 8 --batch-size 4", ("--global-batch", "--batch-size")),
        ("--crop round", ("--crop", "round", "random-resized")),
        ("--lr-scheduler magic", ("--lr-scheduler", "magic", "cosine")),
        ("--val-fraction 1", ("--val-fraction", "1")),
        ("--save-every -1", ("--save-every", "-1")),
        ("--num-classes 0", ("--num-classes", "0")),
        ("--seed -1", ("--seed", "-1")),
        ("--class-names none.txt", ("none.txt", "doesn't exist")),
        ("--config none.toml", ("--config", "none.toml")),
        ("--config train.list", ("--config", "train.list")),
        ("--config bogus.toml", ("bogus",)),
        ("--config type.toml", ("epochs", "many")),
    ],
)
def test_flag_with_a_mistake(site, flags, words):
    (site / "bogus.toml").write_text("bogus = 1\n")
    (site / "type.toml").write_text('epochs = "many"\n')
    refuses(site, *flags.split(), words=words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data val.list", ("--load",)),
        ("--load none.safetensors", ("none.safetensors", "does not exist")),
        ("--load run/best.safetensors --data none.list", ("none.list", "doesn't exist")),
        ("--load run/best.safetensors --data large.list", ("large.list:1", "class id 3")),
        ("--load run/best.safetensors --data gone.list", ("gone.list:1", "missing")),
        ("--load run/best.safetensors --data gone-1.list --strict", ("gone-1.list:7", "missing")),
        ("--load run/best.safetensors --data val.list --batch-size 0", ("--batch-size", "0")),
    ],
)
def test_evaluation_with_a_mistake(site, pictures, flags, words):
    (site / "large.list").write_text("3 x.png\n")
    (site / "gone.list").write_text("0 x.png\n")
    (site / "gone-1.list").write_text("\n".join([*pictures.lines(6), "0 gone.png"]) + "\n")
    job = on_ranks(2, ["-m", "alexnet_dist.evaluate", *flags.split()], site)
    assert_refused(job, *words, program="alexnet-evaluate")


@pytest.mark.parametrize(
    "flags",
    [
        ("--output-dir", "train.list/run"),
        ("--output-dir", "train.list"),
        ("--output-dir", "/proc/run"),
        ("--resume", "--save", "train.list/weights.safetensors"),
        ("--resume", "--save", "/proc/weights.safetensors"),
        ("--resume", "--save", "run"),
    ],
    ids=" ".join,
)
def test_place_where_nothing_can_be_written(site, flags):
    place = flags[-1]
    lists = hashes(site)
    refuses(site, *flags, words=("cannot write", place.split("/")[1 if place[0] == "/" else 0]))
    assert hashes(site) == lists


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may write everywhere")
@pytest.mark.parametrize("mode", [0o500, 0o000])
@pytest.mark.parametrize("place", ["locked", "locked/run"])
def test_a_folder_of_somebody_else(site, place, mode):
    rights = "-dac_override,-dac_read_search"
    person = ["setpriv", "--inh-caps", rights, "--bounding-set", rights] if os.geteuid() == 0 else []
    training = [*SMALL, *map(str, BASE), "--output-dir", place]
    (site / "locked").mkdir(exist_ok=True)
    (site / "locked").chmod(mode)
    try:
        job = alone([*person, MPIRUN, "-n", "2", sys.executable, "-m", "alexnet_dist.train", *training], site)
    finally:
        (site / "locked").chmod(0o700)
    assert_refused(job, "cannot write locked", "Permission denied")
    assert list((site / "locked").iterdir()) == []
