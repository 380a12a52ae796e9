"""A signal that comes while a run validates doesn't wait for the end: who resumes validates again."""

import signal

import pytest
from launcher import epoch_results, events, latest_step, needs_mpirun, rows, start_training, steps, train, while_paused
from two_ranks import EPOCH, flags

pytestmark = needs_mpirun


@pytest.mark.parametrize("more", [(), ("--sync", "hybrid", "--ema-decay", "0.5")], ids=["allreduce", "hybrid"])
def test_stopped_in_validation(site, pictures, more):
    """With `hybrid`, the forward pass is collective; with an average, the weights are swapped meanwhile."""
    pictures.write_list(site / "many.list", 4000)
    folder = site / f"validating-{len(more)}"
    command = [*flags(folder.name, *more, epochs=1), "--val", "many.list"]
    with start_training(2, command, site, fault="validation@9") as job:
        with while_paused(job, site):
            assert len(steps(folder)) == EPOCH
            job.until(lambda: [one["step"] for one in events(folder, "checkpoint")][-1:] == [EPOCH], "it is saved")
            job.signal(signal.SIGUSR1)
        job.wait()
    assert job.code == 75, str(job)
    assert epoch_results(folder) == []
    assert latest_step(folder) == EPOCH
    train(2, [*command, "--resume"], site).ok()
    assert len(rows(folder, "steps")) == EPOCH
    again = site / f"{folder.name}-whole"
    train(2, [*flags(again.name, *more, epochs=1), "--val", "many.list"], site).ok()
    assert epoch_results(folder) == epoch_results(again)


def test_an_epoch_is_saved_once(site):
    """Before it is validated, and also if it isn't."""
    folder = site / "every-second"
    train(2, flags(folder.name, "--validate-every", 2, "--save-every", 0, epochs=3), site).ok()
    saved = [(entry["epoch"], entry["step"]) for entry in events(folder, "checkpoint")]
    assert saved == [(1, EPOCH), (2, 2 * EPOCH), (3, 3 * EPOCH)]


def test_a_kill_after_validation_leads_to_the_same_validation(site):
    """The state at the epoch's end is that before it: who resumes validates again, and comes to the same."""
    folder = site / "validated-twice"
    with start_training(2, flags(folder.name, "--save-every", 0, epochs=2), site, fault=f"halt@{EPOCH + 2}") as job:
        job.until(lambda: len(steps(folder)) == EPOCH + 1, "a step of the second epoch is done")
        job.kill()
    assert latest_step(folder) == EPOCH
    train(2, flags(folder.name, "--save-every", 0, "--resume", epochs=2), site).ok()
    first, again, _ = epoch_results(folder)
    assert again == first
