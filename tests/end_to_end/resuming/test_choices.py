"""Where a resumed run takes its state, its best result and its plateau from."""

import shutil

import pytest
from launcher import assert_refused, epoch_results, events, needs_mpirun, start_training, steps, train
from two_ranks import EPOCH, EPOCHS, flags, validations

from alexnet_dist.reporting.facts import facts
from alexnet_dist.runs.metrics import read_run

pytestmark = needs_mpirun


def test_of_equal_errors_that_with_the_lowest_loss_is_the_best(steep):
    epochs = epoch_results(steep)
    losses = [row["val_loss"] for row in epochs]
    assert {row["val_top1"] for row in epochs} == {0}
    assert losses[0] > losses[1] < losses[2] < losses[3]
    assert [row["best"] for row in epochs] == [True, True, False, False]


def test_resumed_into_a_new_folder_the_best_so_far_is_kept(site, steep):
    """No later epoch is better here: without it, the next epoch's weights would pass for the best."""
    state, folder = steep / "checkpoint-00000045.safetensors", site / "keeps-best"
    job = train(2, flags(folder.name, "--lr", 0.01, "--resume", state), site).ok()
    for name in ("best.safetensors", "predictions.csv"):
        assert (folder / name).read_bytes() == (steep / name).read_bytes()
    # The rows up to the state have come along, for the end of the run and for its report.
    assert epoch_results(folder) == epoch_results(steep)
    assert "best: epoch 2, validation top-1 0.00%" in job.out
    record = read_run(folder)
    assert facts(record)["Best epoch"] == f"2 of {EPOCHS}"
    assert [row["attempt"] for row in record.steps] == [1] * 45 + [2] * 3


def test_results_on_other_validation_images_are_not_compared(site, whole, pictures):
    folder = shutil.copytree(whole, site / "other-val", symlinks=True)
    (site / "other.list").write_text(f"2 {pictures.files[1][1]}\n")
    job = train(2, flags(folder.name, "--val", "other.list", "--resume", epochs=EPOCHS + 1), site).ok()
    assert "the validation images are others than before" in job.out
    # The first result on them is the best so far, whatever the others were.
    assert (folder / "best.safetensors").read_bytes() != (whole / "best.safetensors").read_bytes()


def test_a_run_that_its_plateau_has_ended_goes_on_with_more_reductions(site):
    ended = ["--lr-reductions", 0, "--epochs", 9]
    train(2, [*flags("plateau"), *ended], site).ok()
    folder = site / "plateau"
    epochs = len(validations(folder))
    assert epochs < 9
    again = train(2, [*flags("plateau"), *ended, "--resume"], site).ok()
    assert len(validations(folder)) == epochs, str(again)
    train(2, [*flags("plateau"), "--lr-reductions", 1, "--epochs", 9, "--resume"], site).ok()
    rates = steps(folder, "lr")
    assert len(validations(folder)) > epochs
    assert rates[epochs * EPOCH + 1] == pytest.approx(rates[epochs * EPOCH] * 0.5)


def test_resume_auto_is_one_command_for_every_start(site, whole):
    """The first start, one after a kill, one after its newest state was damaged, and one after the end."""
    auto = flags("auto", "--resume", "auto")
    folder = site / "auto"
    with start_training(2, auto, site) as job:
        job.until(lambda: len(list(folder.glob("checkpoint-*"))) >= 3, "three states")
        job.kill()
    newest = folder / (folder / "latest.safetensors").readlink()
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes(content)
    job = train(2, auto, site).ok()
    assert job.out.count(f"{newest.name} is damaged: its checksum is not that of its content") == 1
    assert steps(folder) == steps(whole)
    assert "finished" in train(2, auto, site).ok().out


def test_a_missing_latest_names_the_states_that_are_there(site, whole):
    folder = shutil.copytree(whole, site / "no-latest", symlinks=True)
    (folder / "latest.safetensors").unlink()
    last = f"checkpoint-{EPOCHS * EPOCH:08}.safetensors"
    assert_refused(train(2, flags("no-latest", "--resume"), site), "latest.safetensors does not exist", last, "auto")


@pytest.mark.parametrize("ranks", [1, 2])
def test_states_by_the_clock(site, whole, ranks):
    """So short a time has passed after each step; the background's writing changes no bit of the training."""
    folder = site / f"clock-{ranks}"
    train(ranks, flags(folder.name, "--save-minutes", 1e-6, "--save-every", 0), site).ok()
    assert {entry["step"] for entry in events(folder, "checkpoint")} == set(range(1, EPOCHS * EPOCH + 1))
    assert all(entry["waited"] >= 0 for entry in events(folder, "checkpoint"))
    if ranks == 2:
        assert steps(folder) == steps(whole)
    assert len(list(folder.glob("checkpoint-*"))) == 3


def test_what_nobody_asked_for_is_not_said_to_be_asked_for(site):
    """The strategy that the rule picked, and that a resumed run keeps."""
    auto = ["--data", "train.list", "--val", "val.list", "--num-classes", 4, "--sync", "auto", "--output-dir", "kept"]
    first = train(2, [*auto, "--epochs", 1], site).ok()
    assert "gradients: hybrid (on one node, ranks share memory" in first.out
    again = train(2, [*auto, "--epochs", 2, "--resume"], site).ok()
    assert "gradients: hybrid (as before)" in again.out
    assert "resuming from kept/checkpoint-" in again.out
    asked = train(2, [*auto, "--epochs", 3, "--resume", "--sync", "sharded"], site).ok()
    assert "gradients: sharded (--sync sharded)" in asked.out
