"""`--resume runs/x` alone goes on with the flags of that run; those that are given win."""

import shutil

import pytest
from hashing import hashes
from launcher import alone, assert_refused, needs_mpirun, on_ranks, rows, steps, train
from two_ranks import EPOCH, EPOCHS, assert_same_run, flags

pytestmark = needs_mpirun

MACHINE = ["--threads", "1", "--workers", "1"]  # these are the start's, not the run's


def resume(ranks, where, *more, folder=None):
    return on_ranks(ranks, ["-m", "alexnet_dist.train", "--resume", where, *MACHINE, *more], folder or where)


@pytest.fixture(scope="module")
def half(site):
    """A run that ends after half of the epochs of the whole one."""
    train(2, flags("half", epochs=EPOCHS // 2), site).ok()
    return site / "half"


@pytest.fixture
def run(half, site, request):
    return shutil.copytree(half, site / request.node.name, symlinks=True)


def test_without_any_other_flag_it_ends_as_it_would_have(run, site, whole):
    """But for --epochs, which a run that is complete needs to go on."""
    job = resume(2, run.name, "--epochs", EPOCHS, folder=site).ok()
    assert_same_run(run, whole, EPOCH * EPOCHS // 2 + 1)
    assert f"with another --epochs: {EPOCHS}, before: {EPOCHS // 2}" in job.out
    assert "with another --lr" not in job.out


def test_from_another_folder_its_paths_are_those_of_its_start(run, tmp_path, whole):
    resume(2, run, "--epochs", EPOCHS, folder=tmp_path).ok()
    assert_same_run(run, whole, EPOCH * EPOCHS // 2 + 1)
    assert list(tmp_path.iterdir()) == []
    # And once more: the new state's paths are right as well.
    resume(2, run, "--epochs", EPOCHS + 1, folder=tmp_path).ok()
    assert max(steps(run)) == EPOCH * (EPOCHS + 1)


def test_what_an_epoch_was_made_with_stays_what_it_was(site):
    """The last epoch is validated again, in a run whose schedule is now that of more epochs."""
    name, cosine = "longer", ("--lr-scheduler", "cosine")
    train(2, flags(name, *cosine, epochs=2), site).ok()
    before = rows(site / name, "epochs")[-1]
    job = resume(2, name, "--epochs", 3, folder=site).ok()
    again = [row for row in rows(site / name, "epochs") if row["epoch"] == 2]
    assert [row["attempt"] for row in again] == [1, 2]
    for column in ("lr", "seconds", "images_per_second", "train_loss", "val_loss"):
        assert again[1][column] == before[column]
    assert f"lr {before['lr']:.3g} " in next(
        line for line in job.out.splitlines() if line.startswith("epoch 2/3  train")
    )
    assert rows(site / name, "steps")[-1]["lr"] < before["lr"] < rows(site / name, "steps")[0]["lr"]


def test_a_state_by_its_name_goes_on_in_its_folder(run, site):
    state = run / "checkpoint-00000015.safetensors"  # of --save-every 5
    (run / "complete").unlink()
    job = resume(2, f"{run.name}/{state.name}", folder=site).ok()
    assert f"resumed after 1 epoch and {15 - EPOCH} steps" in job.out
    assert (run / "complete").exists()


def test_flags_that_are_given_win(run, site):
    job = resume(2, run.name, "--epochs", 3, "--lr", 0.0005, "--output-dir", "elsewhere", folder=site).ok()
    assert "with another --lr: 0.0005, before: 0.001" in job.out
    assert max(steps(site / "elsewhere")) == 3 * EPOCH


def test_a_list_that_is_gone_is_named(run, site, tmp_path):
    before = hashes(run)
    lost = shutil.copytree(run, tmp_path / "moved", symlinks=True)
    (site / "val.list").rename(site / "val.moved")
    try:
        assert_refused(resume(2, lost, folder=tmp_path), f"--val is {site}/val.list", "isn't there", "give --val")
        resume(2, lost, "--val", site / "val.moved", "--epochs", 3, folder=tmp_path).ok()
    finally:
        (site / "val.moved").rename(site / "val.list")
    assert hashes(run) == before


def test_the_batch_of_all_ranks_stays_the_same_on_others(site):
    """It was said for each rank."""
    each = [flag for flag in flags("each", epochs=1) if flag not in ("--global-batch", 4)]
    train(2, ["--num-classes", 4, *[one for one in each if one != "--num-classes"], "--batch-size", 2], site).ok()
    resume(1, "each", "--epochs", 2, folder=site).ok()
    assert max(steps(site / "each")) == 2 * EPOCH


def test_fewer_epochs_than_have_begun_are_refused(run, site):
    """Else a run that was stopped in an epoch would be complete without its end."""
    stopped = run / "checkpoint-00000020.safetensors"  # in the second epoch
    job = resume(2, stopped, "--epochs", 1, "--output-dir", "fewer", folder=site)
    assert_refused(job, f"{stopped.name} is of epoch 2, but --epochs is 1: give 2 or more, or leave it out")
    assert not (site / "fewer" / "complete").exists()


def test_another_optimizer_is_refused_for_that_alone(run, site):
    assert_refused(resume(2, run.name, "--opt", "adamw", folder=site), "the optimizer sgd, not adamw")


def test_resume_auto_takes_the_flags_of_the_command_line_alone(run, site):
    job = on_ranks(2, ["-m", "alexnet_dist.train", "--resume", "auto", "--output-dir", run.name], site)
    assert_refused(job, "images.list")


def test_weights_of_a_run_s_folder(steep, site, tmp_path):
    """Wherever a file of weights is given, so can be the folder of a run: its best weights, or its latest state."""
    program = ["alexnet", "evaluate", "--data", "val.list", "--ignore-class-names", "--json", "--load"]
    told = [alone([*program, steep / name], site).ok().out for name in ("best.safetensors", "latest.safetensors", "")]
    assert told[2] == told[0] != told[1]
    unvalidated = shutil.copytree(steep, tmp_path / "unvalidated", symlinks=True)
    (unvalidated / "best.safetensors").unlink()
    assert alone([*program, unvalidated], site).ok().out == told[1]
    job = alone([*program, tmp_path], site)
    assert_refused(job, f"{tmp_path} is a folder without best.safetensors", program="alexnet evaluate")
    image = (site / "val.list").read_text().split(" ", 1)[1].strip()
    inference = ["alexnet", "inference", "--input", image, "--json", "--load"]
    assert alone([*inference, steep], site).ok().out == alone([*inference, steep / "best.safetensors"], site).ok().out
    alone(["alexnet", "convert", steep, tmp_path / "out.safetensors"], site).ok()
    job = train(2, flags("tuned", "--load-pretrained", steep, epochs=1), site).ok()
    assert f"weights: {steep}/best.safetensors" in job.out
