"""All parameters in one flat float32 buffer, and named views into it; gradients and the optimizer's state have the same
order.

The owner of the memory allocates the flat buffer (in a process, or in a window that several processes share) and gets
the views from the map.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alexnet_dist.support.randomness import Purpose, generator
from alexnet_dist.support.workspace import Workspace


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter: its name in torchvision, its shape here and in a file, and what initialisation needs to know."""

    name: str
    shape: tuple[int, ...]
    file_shape: tuple[int, ...]
    file_axes: tuple[int, ...]  # the order of the axes of `shape` in a file, before it is reshaped to file_shape
    fan_in: int  # the number of inputs of each output of the layer
    paper_bias: float  # the bias that Krizhevsky et al. (2012) start this layer with
    last: bool = False  # whether it belongs to the last layer

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def is_bias(self) -> bool:
        return len(self.shape) == 1

    def to_file(self, value: np.ndarray) -> np.ndarray:
        """The parameter in torchvision's order of axes, C-contiguous; a view where that is ours."""
        return np.ascontiguousarray(value.transpose(self.file_axes)).reshape(self.file_shape)

    def from_file(self, value: np.ndarray, out: np.ndarray) -> None:
        """Copies a parameter in torchvision's order of axes into `out`."""
        out.transpose(self.file_axes)[...] = value.reshape([self.shape[axis] for axis in self.file_axes])


class ParameterMap:
    """Where each parameter lies in a flat buffer of `size` floats; layers in the order of the network."""

    def __init__(self, specs: Sequence[ParameterSpec]) -> None:
        self.specs = tuple(specs)
        self.ranges: dict[str, tuple[int, int]] = {}
        self.size = 0
        for spec in self.specs:
            self.ranges[spec.name] = (self.size, self.size + spec.size)
            self.size += spec.size

    def views(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """The named arrays inside a flat buffer."""
        if flat.shape != (self.size,) or flat.dtype != np.float32:
            raise ValueError(f"the buffer is {flat.dtype} {flat.shape}, not float32 ({self.size},)")
        return {spec.name: flat[slice(*self.ranges[spec.name])].reshape(spec.shape) for spec in self.specs}


class GradientSink(Protocol):
    """Receives gradients. Layers write blocks of the flat gradient and don't know how they are used."""

    def block(self, lo: int, hi: int, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        """An array of hi - lo floats, to be filled with the gradient of flat[lo:hi] before the context ends.

        Called by any thread of the team; each element is in one block of each backward pass.
        """
        ...

    def poll(self) -> None:
        """Called by the main thread between layers: a chance to make progress with communication."""
        ...


def initialize_torchvision(spec: ParameterSpec, value: np.ndarray, rng: np.random.Generator) -> None:
    """PyTorch's default: weights and biases uniform in +-1/sqrt(fan_in)."""
    rng.random(out=value, dtype=np.float32)
    bound = 1 / np.sqrt(spec.fan_in)
    value *= 2 * bound
    value -= bound


def initialize_paper(spec: ParameterSpec, value: np.ndarray, rng: np.random.Generator) -> None:
    """Krizhevsky et al. (2012), section 5: weights N(0, 0.01); biases 1 in some layers and 0 in the others."""
    if spec.is_bias:
        value.fill(spec.paper_bias)
    else:
        rng.standard_normal(out=value, dtype=np.float32)
        value *= 0.01


def initialize_he(spec: ParameterSpec, value: np.ndarray, rng: np.random.Generator) -> None:
    """He et al. (arXiv 1502.01852): weights N(0, sqrt(2 / fan_in)), in the last layer N(0, 0.01); biases 0."""
    if spec.is_bias:
        value.fill(0)
    else:
        rng.standard_normal(out=value, dtype=np.float32)
        value *= 0.01 if spec.last else np.sqrt(2 / spec.fan_in)


INITIALIZERS = {"he": initialize_he, "paper": initialize_paper, "torchvision": initialize_torchvision}


def initialize(
    parameters: ParameterMap, flat: np.ndarray, scheme: str, seed: int, only: Collection[str] | None = None
) -> None:
    """Fills the flat buffer, or the parameters with `only` these names, by one of INITIALIZERS.

    Each parameter has a random generator of its own.
    """
    for index, (spec, value) in enumerate(zip(parameters.specs, parameters.views(flat).values(), strict=True)):
        if only is None or spec.name in only:
            INITIALIZERS[scheme](spec, value, generator(seed, Purpose.INITIALIZE, index))


def reorder_classes_(parameters: ParameterMap, flat: np.ndarray, order: Sequence[int]) -> None:
    """The last layer's class i becomes what was its class order[i], in a flat buffer like that of the parameters."""
    for spec, view in zip(parameters.specs, parameters.views(flat).values(), strict=True):
        if spec.last:
            view[...] = view[list(order)]
