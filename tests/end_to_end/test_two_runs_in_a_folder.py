"""A second run in a folder that a first one writes to is refused, and the first one doesn't notice."""

import pytest
from launcher import assert_refused, needs_mpirun, start_training, steps, train, while_paused

pytestmark = needs_mpirun

AFTER_A_STATE = "pause@7"  # that after 3 steps was written before the one after 6 was begun


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    return pictures.write_lists(tmp_path_factory.mktemp("two_runs"), 40, 6)


def flags(output, *more):
    lists = ["--data", "train.list", "--val", "val.list", "--num-classes", 10, "--global-batch", 4]
    return [*lists, "--epochs", 4, "--lr", "0.001", "--save-every", 3, "--output-dir", output, *more]


def test_the_second_is_refused(site):
    train(2, flags("alone"), site).ok()
    with start_training(2, flags("busy"), site, AFTER_A_STATE) as first:
        with while_paused(first, site):  # so that it doesn't end meanwhile
            second = train(2, flags("busy", "--resume"), site)
        assert_refused(second, "busy is in use by process", "choose another --output-dir")
        first.wait().ok()
    assert steps(site / "busy") == steps(site / "alone")


def test_a_killed_run_does_not_hold_its_folder(site):
    with start_training(2, flags("killed"), site, AFTER_A_STATE) as job:
        job.until((site / "struck").exists, "it waits")
        job.kill()
    assert (site / "killed" / "latest.safetensors").exists()
    assert (site / "killed" / ".lock").exists()
    train(2, flags("killed", "--resume"), site).ok()
    assert not list((site / "killed").glob(".*"))
