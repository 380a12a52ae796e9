"""From tensors by torchvision's names to a network and its flat parameters."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.runs.checkpoint import Header, network_of_shapes
from alexnet_dist.support.workspace import zeros


def weights_of(path: Path, tensors: Mapping[str, np.ndarray], header: Header | None) -> tuple[Header, np.ndarray]:
    """The header, derived from the shapes if there is none, and the flat parameters.

    Raises UserError unless the tensors are exactly the network's, of finite numbers; `path` is for messages.
    """
    header = header or Header(network_of_shapes(path, lambda name: tensors[name].shape))
    parameters = parameter_map(header.network)
    others = sorted(tensors.keys() ^ {spec.name for spec in parameters.specs})
    if others:
        raise UserError(f"{path} holds another network than AlexNet: {others[0]} {_where(others[0], tensors)}")
    flat = zeros((parameters.size,))
    views = parameters.views(flat)
    for spec in parameters.specs:
        value = tensors[spec.name]
        if value.shape != spec.file_shape:
            raise UserError(
                f"{path} is of another network: {spec.name} is {list(value.shape)}, not {list(spec.file_shape)}"
            )
        if value.dtype.kind != "f":
            raise UserError(f"{path} holds {spec.name} as {value.dtype}, not as floating-point numbers")
        if not np.isfinite(value).all():
            raise UserError(f"{path} holds {spec.name} with values that aren't finite")
        spec.from_file(value, views[spec.name])
    return header, flat


def tensors_of(header: Header, flat: np.ndarray) -> dict[str, np.ndarray]:
    """The parameters by torchvision's names, in its order of axes, each an array that can be written to."""
    parameters = parameter_map(header.network)
    views = parameters.views(flat)
    return {spec.name: spec.to_file(views[spec.name]).copy() for spec in parameters.specs}


def _where(name: str, tensors: Mapping[str, np.ndarray]) -> str:
    return "belongs to none of its layers" if name in tensors else "is missing"
