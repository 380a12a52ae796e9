"""--on-nan: what a run does after a step that isn't finite, on any number of ranks, and resumed to the bit."""

import math
import shutil

import pytest
from launcher import assert_refused, epoch_results, events, needs_mpirun, rows, steps, train

pytestmark = needs_mpirun

STEPS = 12  # an epoch: 24 images in batches of 2


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    return pictures.write_lists(tmp_path_factory.mktemp("on-nan"), 24, 3)


def flags(output, *more):
    lists = ["--data", "train.list", "--val", "val.list", "--global-batch", 2, "--lr", "0.001", "--epochs", 2]
    return [*lists, "--save-every", 5, "--keep", 100, "--output-dir", output, *more]


def resumed(site, output, step, *more):
    """A copy of a run that goes on from one of its checkpoints, and does all later steps again."""
    folder = shutil.copytree(site / output, site / f"{output}-again", symlinks=True)
    for table in folder.glob("*.jsonl"):
        table.unlink()
    state = folder / f"checkpoint-{step:08d}.safetensors"
    train(2, flags(folder.name, "--resume", state, *more), site).ok()
    return folder


def test_stop_is_the_default(site):
    job = train(2, flags("stop"), site, fault="spoil@7")
    assert_refused(job, "loss is nan after 6 steps (Conv2d-1", "--lr", "0.001", code=65)
    assert max(steps(site / "stop")) == 6


@pytest.mark.parametrize("ranks", [1, 2])
def test_skip(site, ranks):
    job = train(ranks, flags(f"skip-{ranks}", "--on-nan", "skip"), site, fault="spoil@7").ok()
    folder = site / f"skip-{ranks}"
    assert [entry["step"] for entry in events(folder, "void step")] == [7]
    assert set(steps(folder)) == set(range(1, 2 * STEPS + 1)) - {7}
    assert job.out.count("the loss is nan in step 7, which changes nothing") == 1
    assert "in all, 1 step has changed nothing" in job.out
    # A step that nothing is learned from: neither the epoch's loss nor its accuracy counts its images.
    assert math.isfinite(epoch_results(folder)[0]["train_loss"])
    assert (folder / "complete").exists()


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_a_run_that_has_skipped_is_resumed_to_the_bit(site, opt):
    """AdamW's steps depend on how many updates there have been."""
    skip = ("--on-nan", "skip", "--opt", opt)
    train(2, flags(f"skipped-{opt}", *skip), site, fault="spoil@7").ok()
    again = resumed(site, f"skipped-{opt}", 10, *skip)
    assert steps(again) == steps(site / f"skipped-{opt}", first=11)
    assert epoch_results(again) == epoch_results(site / f"skipped-{opt}")


def test_skip_gives_up_where_no_step_is_finite_any_more(site):
    """The first update makes weights so large that every later loss is NaN."""
    flags_of_it = flags("hopeless", "--on-nan", "skip", "--save-every", 0, "--lr", "1e18", "--epochs", 2)
    job = train(2, [*flags_of_it, "--global-batch", 1], site)
    assert_refused(job, "20 steps in a row", "--on-nan skip", "Lower --lr", code=65)
    assert "in step 2, which changes nothing" in job.out


@pytest.mark.parametrize("ranks", [1, 2])
def test_restore(site, ranks):
    name = f"restored-{ranks}"
    job = train(ranks, flags(name, "--on-nan", "restore"), site, fault="spoil@8").ok()
    assert "Back to step 5, with the learning rate 0.0005" in job.out
    assert "1 of at most 5 times" in job.out
    entries = rows(site / name, "steps")
    assert [entry["step"] for entry in entries] == [*range(1, 8), *range(6, 2 * STEPS + 1)]
    assert [entry["lr"] for entry in entries] == [0.001] * 7 + [0.0005] * (2 * STEPS - 5)
    assert entries[7]["loss"] == entries[5]["loss"]  # parameters and momentum are those of step 5; the rate acts later
    assert entries[8]["loss"] != entries[6]["loss"]


@pytest.mark.parametrize("step", [10, 15])
def test_a_run_that_was_restored_is_resumed_to_the_bit(site, step):
    """With the lower rate."""
    train(2, flags(f"to-{step}", "--on-nan", "restore"), site, fault="spoil@8").ok()
    again = resumed(site, f"to-{step}", step, "--on-nan", "restore")
    assert steps(again) == steps(site / f"to-{step}", first=step + 1)
    assert set(steps(again, "lr").values()) == {0.0005}


def test_restore_before_the_first_checkpoint_begins_anew(site):
    job = train(2, flags("early", "--on-nan", "restore"), site, fault="spoil@3").ok()
    assert "Back to step 0, with the learning rate 0.0005" in job.out
    entries = rows(site / "early", "steps")
    assert [entry["step"] for entry in entries[:4]] == [1, 2, 1, 2]
    assert entries[0]["loss"] == entries[2]["loss"]


def test_restore_to_where_a_resumed_run_began(site):
    train(2, flags("part", "--epochs", 1), site).ok()
    more = ("--on-nan", "restore", "--resume", site / "part", "--save-every", 0)
    job = train(2, flags("rest", *more), site, fault="spoil@3").ok()
    assert f"Back to step {STEPS}, with the learning rate 0.0005" in job.out
    entries = [row for row in rows(site / "rest", "steps") if row["step"] > STEPS]
    assert entries[0]["loss"] == entries[2]["loss"]


def test_restore_gives_up_where_a_lower_rate_does_not_help(site):
    job = train(2, flags("never", "--on-nan", "restore", "--lr", "1e30"), site)
    assert_refused(job, "Going back 5 times", "--lr", "1e+30", code=65)
    assert job.out.count("Back to step 0") == 5
    assert not list((site / "never").glob("*.safetensors"))
