"""The formats of weights, by the suffix of a file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.checkpoint import Header
from alexnet_dist.weights.onnx_file import read_onnx, write_onnx
from alexnet_dist.weights.torch_file import read_torch, write_torch

Weights = tuple[Header, np.ndarray]  # what is known of a network, and its parameters as one flat buffer


@dataclass(frozen=True)
class Format:
    """How files of a format are read and written. Both raise UserError; what is written is whole or absent."""

    read: Callable[[Path], Weights]
    write: Callable[[Path, Header, np.ndarray], None]
    weights_alone: bool = False  # neither class names nor what else a header says


def write_safetensors(path: Path, header: Header, flat: np.ndarray) -> None:
    """A file of weights alone, which torchvision's `load_state_dict` takes, too."""
    checkpoint.save(path, parameter_map(header.network), flat, {}, header)


TORCH = Format(read_torch, write_torch, weights_alone=True)
FORMATS = {
    ".safetensors": Format(checkpoint.load_weights, write_safetensors),
    ".pth": TORCH,
    ".pt": TORCH,
    ".onnx": Format(read_onnx, write_onnx),
}


def format_of(path: Path) -> Format:
    """The format of a file. Raises UserError for a suffix that is none of FORMATS."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UserError(f"{path} must end in one of {', '.join(FORMATS)}, which says its format") from None
