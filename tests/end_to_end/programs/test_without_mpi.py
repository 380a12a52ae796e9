"""Without MPI there is inference, training says what to install, and each program has its help, by both its names."""

import sys

import pytest
from commands import inference
from launcher import BIN, alone


def test_inference_needs_no_mpi(site, without_mpi):
    job = inference(site, "--input", "red/image 1.png", env=without_mpi).ok()
    assert "red" in job.out


def test_training_without_mpi_says_what_to_install(site, without_mpi):
    job = alone([BIN / "alexnet-train", "--data", "images.list"], site, without_mpi)
    assert job.code == 2
    assert job.err.count("alexnet-train: error: ") == len(job.err.splitlines()) == 1, str(job)
    assert "MPI" in job.err
    assert "pip install" in job.err


def test_model_and_inference_import_no_mpi(tmp_path):
    code = "import sys, alexnet_dist.model, alexnet_dist.inference; print('mpi4py' in sys.modules)"
    assert alone([sys.executable, "-c", code], tmp_path).ok().out.strip() == "False"


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("train", ("--data", "--resume", "--global-batch", "-batchsize", "images.list", "exit codes")),
        ("evaluate", ("--load", "--data", "--json")),
        ("inference", ("--input", "--load", "--topk", "--json")),
        ("serve", ("--load", "--host", "--port", "curl")),
        ("convert", ("IN", "OUT", ".onnx", "--class-names")),
        ("prepare", ("folder", "digits", "images.list")),
    ],
)
def test_help(name, flags, tmp_path, without_mpi):
    by_command = alone([BIN / f"alexnet-{name}", "--help"], tmp_path, without_mpi).ok()
    by_module = alone([sys.executable, "-m", f"alexnet_dist.{name}", "--help"], tmp_path, without_mpi).ok()
    assert by_command.out == by_module.out
    assert by_command.err == by_module.err == ""
    for flag in flags:
        assert flag in by_command.out
