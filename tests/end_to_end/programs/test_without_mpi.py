"""Without MPI there is inference, training says what to install, and each program has its help, by both its names."""

import sys

import numpy as np
import pytest
from commands import inference
from launcher import BIN, alone
from safetensors.numpy import load_file


def test_inference_needs_no_mpi(site, without_mpi):
    job = inference(site, "--input", "red/image 1.png", env=without_mpi).ok()
    assert "red" in job.out


def test_ranks_without_mpi_say_what_to_install(site, without_mpi):
    """One of two ranks, as mpirun tells it: it must not take itself for the only one."""
    job = alone([BIN / "alexnet-train", "--data", "images.list"], site, {**without_mpi, "PMI_SIZE": "2"})
    assert job.code == 2
    assert job.err.count("alexnet-train: error: ") == len(job.err.splitlines()) == 1, str(job)
    remedy, problem = job.err.split("pip install 'alexnet_dist[mpi]'")
    assert "no MPI library was found" in remedy
    assert "no MPI on this machine" in problem


def test_one_rank_trains_without_mpi_as_it_does_with_it(site, without_mpi):
    for name, env in (("with", {}), ("without", without_mpi)):
        # Frozen layers keep their features in what would be a node's shared memory.
        for more in ([], ["--load-pretrained", "weights.safetensors", "--freeze", "features", "--lr-patience", "1"]):
            command = [BIN / "alexnet", "train", "--config", "recipe.toml", "--epochs", 2, *more]
            alone(
                [*command, "--output-dir", f"{name}-{len(more)}", "--save", f"{name}-{len(more)}.safetensors"],
                site,
                env,
            ).ok()
    for more in ("0", "6"):
        with_mpi, without = (load_file(site / f"{name}-{more}.safetensors") for name in ("with", "without"))
        assert with_mpi.keys() == without.keys()
        assert all(np.array_equal(with_mpi[key], without[key]) for key in with_mpi)
    job = alone([BIN / "alexnet", "train", "--resume", "without-0", "--epochs", 3], site, without_mpi).ok()
    assert "resumed after 1 epoch and 3 steps" in job.out  # the second epoch's end, before its validation
    assert alone([BIN / "alexnet", "evaluate", "--load", "without-0", "--data", "val.list"], site, without_mpi).ok().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [(("--sync", "hybrid"), "--sync hybrid is for the ranks of MPI"), (("--elastic",), "--elastic is for")],
)
def test_what_one_rank_can_not_do_without_mpi_is_said(site, without_mpi, flags, said):
    job = alone([BIN / "alexnet-train", "--config", "recipe.toml", "--output-dir", "no", *flags], site, without_mpi)
    assert (job.code, len(job.err.splitlines())) == (2, 1), str(job)
    assert said in job.err


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
