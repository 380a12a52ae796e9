"""Checkpoints that are missing, damaged, foreign or of another network are refused, and earlier ones stay unharmed."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hashing import hashes
from launcher import assert_refused, needs_mpirun, train
from refusals import BASE, refuses
from safetensors.numpy import load_file, save_file

pytestmark = needs_mpirun


def _cut(path: Path, state: Path) -> None:
    path.write_bytes(state.read_bytes()[: state.stat().st_size // 2])


def _flipped(path: Path, state: Path) -> None:
    data = bytearray(state.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def _flipped_in_header(path: Path, state: Path) -> None:
    data = bytearray(state.read_bytes())
    data[data.index(b"data_offsets")] ^= 1
    path.write_bytes(data)


def _foreign_text(path: Path, state: Path) -> None:
    path.write_text("weights = none\n" * 1000)


def _pickled(path: Path, state: Path) -> None:
    path.write_bytes(pickle.dumps({"features.0.weight": [0.0] * 1000}))


def _foreign_network(path: Path, state: Path) -> None:
    save_file({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, path)


def _of_another_shape(path: Path, state: Path) -> None:
    tensors = load_file(state)
    tensors["classifier.1.weight"] = np.zeros((7, 5), np.float32)
    save_file(tensors, path)


CHECKPOINTS = {
    "missing": (lambda path, state: None, "does not exist"),
    "cut": (_cut, "not a whole safetensors file"),
    "flipped": (_flipped, "damaged"),
    "flipped-in-header": (_flipped_in_header, "bad"),
    "text": (_foreign_text, "not a whole safetensors file"),
    "pickle": (_pickled, "not a whole safetensors file"),
    "other-network": (_foreign_network, "bad"),
    "other-shape": (_of_another_shape, "bad"),
}


@pytest.mark.parametrize("flag", ["--resume", "--load-pretrained"])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_bad_checkpoint(site, kind, flag):
    make, words = CHECKPOINTS[kind]
    make(site / "bad.safetensors", site / "run" / "latest.safetensors")
    (site / "run").rename(site / "run-before")
    output = "new" if flag == "--load-pretrained" else "run-before"
    before = hashes(site / "run-before")
    # Two threads: those of a team that is given up must not keep the process alive.
    flags = [flag, "bad.safetensors", "--output-dir", output, "--threads", 2]
    assert_refused(train(2, [*BASE, *flags], site), "bad.safetensors", words)
    assert hashes(site / "run-before") == before
    assert not (site / "new" / "steps.jsonl").exists()


@pytest.mark.parametrize("flag", ["--resume", "--load-pretrained"])
def test_checkpoint_of_a_network_of_another_shape(site, flag):
    source = (flag, "run/latest.safetensors") if flag == "--load-pretrained" else (flag,)
    output = ("--output-dir", "new") if flag == "--load-pretrained" else ()
    if flag == "--resume":  # other classes only begin a new last layer of pretrained weights
        refuses(
            site,
            *source,
            *output,
            "--num-classes",
            4,
            words=("checkpoint-00000003.safetensors", "shape", "classifier.6"),
        )
    refuses(site, *source, *output, "--width", 0.125, words=("checkpoint-00000003.safetensors", "shape", "--width"))


def test_weights_alone_are_no_run_to_resume(site):
    refuses(site, "--resume", "run/best.safetensors", words=("best.safetensors", "training state", "--load-pretrained"))
