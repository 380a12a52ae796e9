"""A bit that flips in one rank's copy of the parameters ends the run before its next checkpoint at an epoch's end."""

from launcher import assert_refused, latest_step, needs_mpirun, train

pytestmark = needs_mpirun


def test_a_flipped_bit(pictures, tmp_path):
    pictures.write_list(tmp_path / "train.list", 6)
    pictures.write_list(tmp_path / "val.list", 2)
    flags = ["--data", "train.list", "--val", "val.list", "--global-batch", 2, "--lr", "0.001", "--epochs", 3]
    flags += ["--sync", "allreduce", "--output-dir", "run"]
    job = train(2, flags, tmp_path, fault="flip@5")  # in the second epoch of three steps
    assert_refused(job, "copies of the parameters have parted", "rank 1 (", "--resume run/checkpoint-00000003", code=71)
    assert latest_step(tmp_path / "run") == 3
    train(2, [*flags, "--resume", "run/checkpoint-00000003.safetensors"], tmp_path).ok()
    assert (tmp_path / "run" / "complete").exists()


def test_fewer_images_than_ranks(pictures, tmp_path):
    pictures.write_list(tmp_path / "train.list", 3)
    pictures.write_list(tmp_path / "val.list", 1)
    flags = ["--data", "train.list", "--val", "val.list", "--global-batch", 1, "--lr", "0.001", "--epochs", 1]
    job = train(2, [*flags, "--output-dir", "run"], tmp_path).ok()
    assert "a step has fewer images (1) than there are ranks (2)" in job.out
