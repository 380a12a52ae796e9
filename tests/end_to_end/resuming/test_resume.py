"""Killed, stopped or ended, a run that is resumed goes on as if nothing had happened."""

import shutil
import signal

import numpy as np
import pytest
from hashing import hashes
from launcher import (
    assert_refused,
    epoch_results,
    events,
    latest_step,
    needs_mpirun,
    rows,
    start_training,
    steps,
    train,
)
from two_ranks import EPOCH, EPOCHS, STOP_SIGNALS, assert_same_run, flags

from alexnet_dist.data.decode import LISTED
from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.runs import checkpoint

pytestmark = needs_mpirun


def kill_in_step(site, output, step):
    """A run that has done some steps and written the state before them, and was killed with all its processes."""
    with start_training(2, flags(output), site, fault=f"halt@{step + 1}") as job:
        job.until(lambda: max(steps(site / output), default=0) == step, f"step {step} is done")
        job.until(lambda: latest_step(site / output) > step - 5, "the background has written its state")
        job.kill()
    return site / output


@pytest.mark.parametrize("step", [7, 2 * EPOCH + 9])
def test_killed_within_an_epoch(site, whole, step):
    folder = kill_in_step(site, f"killed-in-{step}", step)
    saved = latest_step(folder)
    assert step - 5 < saved < step
    job = train(2, flags(folder.name, "--resume"), site).ok()
    assert f"{saved // EPOCH} epochs and {saved % EPOCH} steps" in job.out
    assert [entry["step"] for entry in events(folder, "resume")] == [saved]
    assert_same_run(folder, whole, saved + 1)
    # The steps after the checkpoint have been done twice, with the same outcome.
    log = [(entry["step"], entry["loss"]) for entry in rows(folder, "steps")]
    assert len(log) == EPOCHS * EPOCH + step - saved
    assert len(set(log)) == EPOCHS * EPOCH


def test_killed_at_some_moment(site):
    """The program as it is, no step prepared for the kill. Whenever that comes, the run has not ended yet."""
    endless, folder = ("--lr-patience", 1_000_000), site / "any-moment"
    with start_training(2, flags("any-moment", *endless, epochs=1_000_000), site) as job:
        job.until((folder / "latest.safetensors").exists, "a checkpoint is there")
        job.kill()
    before = steps(folder, killed=True)
    assert 5 <= latest_step(folder) <= len(before)
    epochs = len(before) // EPOCH + 1
    train(2, flags("any-moment", *endless, "--resume", epochs=epochs), site).ok()
    train(2, flags("no-moment", *endless, epochs=epochs), site).ok()
    assert len(steps(folder)) == epochs * EPOCH
    assert steps(folder) == steps(site / "no-moment")
    assert before.items() <= steps(folder).items()


def test_killed_while_a_checkpoint_is_written(site, whole):
    with start_training(2, flags("half-written"), site, fault="half@3") as job:
        job.until((site / "struck").exists, "the third checkpoint is half written")
        job.kill()
    folder = site / "half-written"
    assert latest_step(folder) == 10  # the third would have been that of the epoch's end
    train(2, flags("half-written", "--resume"), site).ok()
    assert_same_run(folder, whole, 11)
    left = {path.name for path in folder.iterdir()}
    assert not [name for name in left if name.startswith(".")], "the half-written file is still there"


def test_resumed_after_the_end_of_an_epoch(site, whole):
    train(2, flags("two-epochs", epochs=2), site).ok()
    assert latest_step(site / "two-epochs") == 2 * EPOCH
    train(2, flags("two-epochs", "--resume"), site).ok()
    assert_same_run(site / "two-epochs", whole, 1)


def test_a_run_that_goes_on_is_not_marked_complete(site):
    """The mark of the first end must not stand while, or after, a longer run is killed."""
    train(2, flags("marked", epochs=1), site).ok()
    assert (site / "marked" / "complete").exists()
    with start_training(2, flags("marked", "--resume"), site, fault="halt@3") as job:
        job.until(lambda: max(steps(site / "marked")) == EPOCH + 2, "two more steps are done")
        job.kill()
    assert not (site / "marked" / "complete").exists()


def test_weights_of_the_best_epoch_come_back_where_they_are_missing(site, steep):
    """Though no later epoch is better."""
    folder = shutil.copytree(steep, site / "best-gone", symlinks=True)
    (folder / "best.safetensors").unlink()
    train(2, flags(folder.name, "--lr", 0.01, "--resume", epochs=EPOCHS + 1), site).ok()
    assert (folder / "best.safetensors").exists()


def test_an_epoch_is_saved_before_it_is_validated(site):
    """Each validation image is gone: the first epoch's steps are not lost, and with better images the run goes on."""
    (site / "gone.list").write_text("0 gone.png\n")
    job = train(2, [*flags("unvalidated", epochs=1), "--val", "gone.list"], site)
    assert_refused(job, "gone.list", "read")
    assert latest_step(site / "unvalidated") == EPOCH
    train(2, flags("unvalidated", "--resume", epochs=1), site).ok()
    assert len(epoch_results(site / "unvalidated")) == 1


@pytest.mark.parametrize("ranks", [1, 3])
def test_resumed_on_another_number_of_ranks(site, whole, ranks):
    folder = shutil.copytree(whole, site / f"on-{ranks}", symlinks=True)
    state = sorted(folder.glob("checkpoint-*"))[0]
    saved = int(state.stem.removeprefix("checkpoint-"))
    train(ranks, flags(folder.name, "--resume", state), site).ok()
    resumed = [entry["loss"] for entry in rows(folder, "steps")[EPOCHS * EPOCH :]]
    assert resumed == pytest.approx(list(steps(whole, first=saved + 1).values()), rel=1e-4)
    assert steps(folder, "lr") == steps(whole, "lr")


@pytest.mark.parametrize("source", ["file", "folder"])
def test_resumed_from_a_named_place_into_a_new_folder(site, whole, source):
    killed = kill_in_step(site, f"named-{source}", 17)
    before = hashes(killed)
    named = {"file": killed / "checkpoint-00000010.safetensors", "folder": killed}[source]
    saved = {"file": 10, "folder": 15}[source]
    folder = site / f"from-{source}"
    train(2, flags(folder.name, "--resume", named), site).ok()
    assert next(row["step"] for row in rows(folder, "steps") if row["attempt"] == 2) == saved + 1
    assert steps(folder) == steps(whole)  # with the rows up to the state
    assert hashes(killed) == before


def test_momentum_is_kept(site, whole):
    """Weights alone lead elsewhere: so the runs above agree because momentum came back, not because it doesn't matter."""
    folder = shutil.copytree(whole, site / "no-momentum", symlinks=True)
    state = sorted(folder.glob("checkpoint-*"))[0]
    saved = int(state.stem.removeprefix("checkpoint-"))
    header = checkpoint.read_header(state)
    parameters = parameter_map(header.network)
    flat, momentum = (np.zeros(parameters.size, np.float32) for _ in range(2))
    checkpoint.load(state, parameters, flat, {"momentum": momentum})
    assert momentum.any()
    checkpoint.save(state, parameters, flat, {"momentum": np.zeros_like(momentum)}, header)
    train(2, flags(folder.name, "--resume", state), site).ok()
    resumed = {row["step"]: row["loss"] for row in rows(folder, "steps") if row["attempt"] == 2}
    assert resumed[saved + 1] == steps(whole)[saved + 1]  # the same weights, images and random numbers
    assert resumed[saved + 2] != pytest.approx(steps(whole)[saved + 2], rel=1e-4)


@pytest.mark.parametrize(
    ("other", "words"), [(("--seed", 1), ("seed", "0", "1")), (("--global-batch", 6), ("batch", "4", "6"))]
)
def test_other_seed_or_batch_is_refused(site, whole, other, words):
    before = hashes(whole)
    assert_refused(train(2, flags("whole", "--resume", *other), site), *words)
    assert hashes(whole) == before


def test_second_start_is_refused_and_harms_nothing(site, whole):
    before = hashes(whole)
    assert_refused(train(2, flags("whole"), site), "whole", "--resume", "--output-dir")
    assert hashes(whole) == before


def test_start_in_a_folder_with_checkpoints_but_no_latest_is_refused(site, whole):
    """A copied folder may have lost its links; its checkpoints are as precious."""
    folder = shutil.copytree(whole, site / "unlinked", symlinks=True)
    (folder / "latest.safetensors").unlink()
    before = hashes(folder)
    assert_refused(train(2, flags("unlinked"), site), "unlinked", "--resume")
    assert hashes(folder) == before


def test_nothing_to_resume(site):
    assert_refused(train(2, flags("never-run", "--resume"), site), "never-run", "does not exist")


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_signal_stops_after_a_checkpoint(site, whole, number):
    folder = site / f"stopped-{number.name}"
    command = flags(folder.name, "--save-every", 0)
    with start_training(2, command, site, fault="pause@3") as job:
        job.until((site / "struck").exists, "it waits")
        job.signal(number)
        job.wait()
    saved = latest_step(folder)
    go_on = f"to go on: the same command with --resume {folder.name}"
    assert f"stopped by a signal after step {saved}; {go_on}\n" in job.out
    assert saved == max(steps(folder)) == 3
    assert job.code == 75, str(job)
    assert not (folder / "complete").exists()
    train(2, [*command, "--resume", folder.name], site).ok()
    assert (folder / "complete").exists()
    assert steps(folder) == steps(whole)


def test_broken_images_are_counted_once_across_a_stop(site, pictures):
    """Each step has some; those of the step before which the run stops must not count twice."""
    lines = [f"{line} is gone" if number % 2 else line for number, line in enumerate(pictures.lines(400))]
    (site / "broken.list").write_text("\n".join(lines) + "\n")
    broken = ["--data", "broken.list", "--max-bad", "0.9", "--global-batch", 16]
    folder = site / "broken"
    with start_training(2, [*flags("broken", epochs=1), *broken], site, fault="pause@2") as job:
        job.until((site / "struck").exists, "it waits")
        job.signal(signal.SIGUSR1)
        job.wait()
    assert "stopped by a signal after step 2" in job.out
    job = train(2, [*flags("broken", "--resume", epochs=1), *broken], site).ok()
    assert job.out.count("skipped: ") == LISTED  # of about 190
    assert job.out.count("further images that can't be read are counted") == 1
    assert [entry["skipped"] for entry in epoch_results(folder)] == [200]
