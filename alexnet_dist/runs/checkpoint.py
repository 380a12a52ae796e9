"""Checkpoints: one safetensors file with torchvision's keys and order of axes, checked before it is used.

A file holds the weights and, if it is a training state, the optimizer's buffers, for example the momentum under
`momentum.<key>`. Its metadata hold the network, the class names and the state of training as JSON, and a CRC-32 of
everything. A file of weights alone is what
`torchvision.models.alexnet().load_state_dict(safetensors.torch.load_file(f))` takes, and such a file from torchvision,
which has no metadata, is read too. Nothing in a file is executed or unpickled.
"""

import json
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alexnet_dist.data.augment import INTERPOLATIONS
from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.model.parameters import ParameterMap, ParameterSpec
from alexnet_dist.support.files import reading, replacing
from alexnet_dist.support.workspace import zeros

FORMAT, VERSION = "alexnet_dist", 1
BFLOAT16 = "BF16"
FLOATS = {"F16", "F32", "F64", BFLOAT16}
LARGEST = (
    1 << 20
)  # of a network's sizes that a header may claim; beyond it, arithmetic on them or memory would fail first
OTHER_FORMATS = {".pth", ".pt", ".onnx"}  # which weights/ reads


class Damaged(UserError):
    """A file isn't as it was written, or what was written is of no use. The text ends with the advice to use another."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}. Use an earlier checkpoint")


@dataclass(frozen=True)
class Header:
    """What a checkpoint holds besides its tensors."""

    network: Network
    class_names: list[str] | None = None
    training: dict[str, Any] | None = None  # None in a file of weights alone


Flats = Mapping[str, np.ndarray]  # the optimizer's buffers by their names, each flat like the parameters


def save(
    path: Path,
    parameters: ParameterMap,
    values: np.ndarray,
    state: Flats,
    header: Header,
    *,
    skip: Collection[str] = (),
) -> None:
    """Replaces `path` with a checkpoint: a training state if there is the optimizer's `state`, else weights alone.

    Tensors with the names in `skip` (those of the state have a prefix) are left out. Raises UserError where the file cannot
    be written; `path` is then unchanged.
    """
    tensors: dict[str, np.ndarray] = {}
    for prefix, flat in _prefixed(values, state):
        views = parameters.views(flat)
        specs = [spec for spec in parameters.specs if prefix + spec.name not in skip]
        # safetensors writes an array's memory as it is, so it must be C-contiguous, which to_file ensures.
        tensors |= {prefix + spec.name: spec.to_file(views[spec.name]) for spec in specs}
    metadata = {"format": FORMAT, "version": str(VERSION), "header": json.dumps(asdict(header))}
    metadata["checksum"] = _checksum(tensors, metadata["header"])
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            if number := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise UserError(f"cannot write {path}: {error}") from error


def _prefixed(values: np.ndarray, state: Flats) -> list[tuple[str, np.ndarray]]:
    """Each flat buffer, after the prefix of its tensors' names."""
    return [("", values), *((f"{name}.", flat) for name, flat in state.items())]


def read_header(path: Path) -> Header:
    """The header of a checkpoint of ours, or one derived from the shapes in a file of torchvision's.

    Raises UserError for a file that is missing, truncated, no checkpoint, or of a later version.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if "header" in metadata:
            return _parse_header(path, metadata)
        return Header(network_of_shapes(path, lambda name: file.get_slice(name).get_shape()))


def network_of_shapes(path: Path, shape_of: Callable[[str], Sequence[int]]) -> Network:
    """The network of a file without a header: its width from the first layer, its classes from the last.

    `shape_of` gives the shape of a parameter in the file, by its name. Raises UserError where these layers aren't there.
    """
    standard = parameter_map(Network())
    first, *_, last = (spec for spec in standard.specs if spec.is_bias)
    try:
        filters, classes = (shape_of(spec.name)[0] for spec in (first, last))
    except (SafetensorError, KeyError, IndexError):
        raise UserError(
            f"{path} holds no AlexNet: it has none of torchvision's keys ({first.name}, {last.name})"
        ) from None
    return Network(num_classes=classes, width=filters / first.size)


def load(path: Path, parameters: ParameterMap, values: np.ndarray, state: Flats, *, skip: Collection[str] = ()) -> None:
    """Fills the flat buffers from a checkpoint. Names, shapes and types are checked first, the checksum as it is read.

    Tensors with the names in `skip` (those of the state have a prefix) are left out. Raises UserError if anything differs
    from what the map asks for, or if the file is broken.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
        stored = set(file.keys())
        names = ((prefix + spec.name, spec) for prefix, _ in _prefixed(values, state) for spec in parameters.specs)
        wanted = {name: spec for name, spec in names if name not in skip}
        _check_tensors(path, file, stored, wanted)
        if "checksum" in metadata:
            tensors, checksum = _read(path, file, metadata.get("header", ""), wanted)
            if checksum != metadata["checksum"]:
                raise Damaged(f"{path} is damaged: its checksum is not that of its content")
        else:
            tensors = {name: _tensor(path, file, name) for name in wanted}
    for prefix, flat in _prefixed(values, state):
        views = parameters.views(flat)
        for spec in parameters.specs:
            if prefix + spec.name in wanted:
                tensor = tensors[prefix + spec.name]
                if not np.isfinite(tensor).all():
                    name = prefix + spec.name
                    raise Damaged(f"{path} holds values in {name} that are not finite: what was trained had diverged")
                spec.from_file(tensor, views[spec.name])


def _read(path: Path, file: Any, header: str, wanted: Collection[str]) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a file that are wanted, and the checksum of all of them; the others aren't kept."""
    tensors, crc = {}, zlib.crc32(header.encode())
    for name in sorted(file.keys()):
        tensor = _tensor(path, file, name)
        crc = _with_tensor(crc, name, tensor)
        if name in wanted:
            tensors[name] = tensor
    return tensors, f"crc32:{crc:08x}"


def _tensor(path: Path, file: Any, name: str) -> np.ndarray:
    """A tensor of a file. NumPy has no bfloat16, in which others save: its bits are the upper half of float32's."""
    part = file.get_slice(name)
    if part.get_dtype() != BFLOAT16:
        tensor: np.ndarray = file.get_tensor(name)
        return tensor
    with open(path, "rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        start, end = json.loads(raw.read(length))[name]["data_offsets"]
        raw.seek(8 + length + start)
        upper = np.frombuffer(raw.read(end - start), "<u2")
    return (upper.astype(np.uint32) << 16).view(np.float32).reshape(part.get_shape())


def verify(path: Path) -> None:
    """Raises UserError unless all of a checkpoint of ours is there, as its checksum says."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
        _parse_header(path, metadata)
        _, checksum = _read(path, file, metadata["header"], wanted=())
    if checksum != metadata.get("checksum"):
        raise UserError(f"{path} is damaged: its checksum is not that of its content")


def load_weights(path: Path) -> tuple[Header, np.ndarray]:
    """The header of a checkpoint, and its parameters as one flat buffer. Raises UserError as read_header and load do."""
    header = read_header(path)
    parameters = parameter_map(header.network)
    _check_size(path, parameters)
    flat = zeros((parameters.size,))
    load(path, parameters, flat, {})
    return header, flat


def _check_size(path: Path, parameters: ParameterMap) -> None:
    """Raises UserError where a header claims more weights than the file can hold: before memory for them is asked for."""
    if parameters.size > path.stat().st_size:  # a weight takes 2 bytes or more
        raise Damaged(f"{path} is not whole: its header is of {parameters.size} parameters")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with reading(path):
            if not path.is_file():
                raise UserError(f"the checkpoint {path} {'is not a file' if path.exists() else 'does not exist'}")
            if path.suffix in OTHER_FORMATS:
                converted = path.with_suffix(".safetensors")
                raise UserError(f"{path} must be converted first: alexnet-convert {path} {converted}")
            # safetensors says of every file that it can't open that it isn't there.
            with open(path, "rb"), safe_open(path, framework="numpy") as file:
                yield file
    except FileNotFoundError:
        raise UserError(f"the checkpoint {path} does not exist") from None
    except SafetensorError as error:
        raise Damaged(f"{path} is not a whole safetensors file ({error})") from error


def _parse_header(path: Path, metadata: Mapping[str, str]) -> Header:
    try:
        if metadata["format"] != FORMAT:
            raise UserError(f"{path} has a header of the format {metadata['format']!r}, not {FORMAT!r}: is it damaged?")
        if int(metadata["version"]) > VERSION:
            raise UserError(
                f"{path} is of format version {metadata['version']}, newer than this program reads ({VERSION}). "
                "Update alexnet_dist"
            )
        fields = json.loads(metadata["header"])
        network = Network(**fields["network"])
        _check_network(network)
        names, training = fields["class_names"], fields["training"]
        if names is not None and (len(names) != network.num_classes or not all(isinstance(one, str) for one in names)):
            raise ValueError(f"its class names are not {network.num_classes} texts")
        if training is not None and not isinstance(training, dict):
            raise TypeError(f"its training state is a {type(training).__name__}")
        return Header(network, names, training)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} has a header that this program can't read ({error!r})") from error


def _check_network(network: Network) -> None:
    """Raises TypeError or ValueError for settings that no network has; its tensors are compared with them later."""
    for name in ("num_classes", "image_size"):
        value = getattr(network, name)
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise ValueError(f"{name} is {value!r}")
    for name, largest in (("width", 100.0), ("dropout", 1.0)):
        value = getattr(network, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= largest:
            raise ValueError(f"{name} is {value!r}")
    if network.interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {network.interpolation!r}")


def _check_tensors(path: Path, file: Any, stored: set[str], wanted: Mapping[str, ParameterSpec]) -> None:
    missing = sorted(wanted.keys() - stored)
    if missing and all(name != wanted[name].name for name in missing):  # all weights are there
        raise UserError(f"{path} holds weights but no training state. Start from it with --load-pretrained")
    if missing:
        raise UserError(f"{path} lacks {missing[0]} ({len(missing)} parameters missing): it is of another network")
    for name, spec in wanted.items():
        part = file.get_slice(name)
        if tuple(part.get_shape()) != spec.file_shape:
            raise UserError(
                f"{path} is of a network of another shape: {name} is {part.get_shape()} there and "
                f"{list(spec.file_shape)} here (--num-classes, --width)"
            )
        if part.get_dtype() not in FLOATS:
            raise UserError(f"{path} holds {name} as {part.get_dtype()}; only {', '.join(sorted(FLOATS))} are read")


def _checksum(tensors: Mapping[str, np.ndarray], header: str) -> str:
    crc = zlib.crc32(header.encode())
    for name in sorted(tensors):
        crc = _with_tensor(crc, name, tensors[name])
    return f"crc32:{crc:08x}"


def _with_tensor(crc: int, name: str, tensor: np.ndarray) -> int:
    crc = zlib.crc32(name.encode(), crc)
    return zlib.crc32(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data, crc)
