"""ONNX files of AlexNet, written and read with the package `onnx` and without PyTorch.

The graph takes `images` [N, 3, H, W], float32 and normalised as torchvision does it, for any N, and yields `logits`
[N, classes]. Its metadata say how to normalise, and hold the class names and our header as JSON.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_dist.data.augment import MEAN, STD, short_side
from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import Network
from alexnet_dist.runs.checkpoint import Header
from alexnet_dist.support.files import replacing
from alexnet_dist.weights.onnx_graph import INPUT, OUTPUT, Graph
from alexnet_dist.weights.tensors import tensors_of, weights_of

OPSET, IR_VERSION = 13, 7  # old enough for every runtime of the last years; nothing newer is used


def write_onnx(path: Path, header: Header, flat: np.ndarray) -> None:
    """Replaces `path` with a graph that any ONNX runtime can run. Raises UserError."""
    onnx = _onnx(path)
    network, helper = header.network, onnx.helper
    graph = Graph(onnx, network)
    size, floats = network.image_size, onnx.TensorProto.FLOAT
    constants = tensors_of(header, flat) | graph.constants
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "AlexNet",
            [helper.make_tensor_value_info(INPUT, floats, ["N", 3, size, size])],
            [helper.make_tensor_value_info(OUTPUT, floats, ["N", network.num_classes])],
            [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        producer_name="alexnet_dist",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, _metadata(header))
    onnx.checker.check_model(model)
    with replacing(path) as temporary:
        onnx.save(model, temporary)


def read_onnx(path: Path) -> tuple[Header, np.ndarray]:
    """The weights of a file that write_onnx or PyTorch has written, which keep torchvision's names. Raises UserError."""
    onnx = _onnx(path)
    if not path.is_file():
        raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    try:
        model = onnx.load(path)
        tensors = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        properties = {one.key: one.value for one in model.metadata_props}
        header = _header(properties["header"]) if "header" in properties else None
    except Exception as error:  # protobuf's, the package's own, JSON's
        raise UserError(f"{path} is not a whole ONNX file ({str(error)[:200] or type(error).__name__})") from error
    parameters = {name: value for name, value in tensors.items() if name.startswith(("features.", "classifier."))}
    return weights_of(path, parameters, header)


def _metadata(header: Header) -> dict[str, str]:
    network = header.network
    return {
        "header": json.dumps(asdict(Header(network, header.class_names))),
        "class_names": json.dumps(header.class_names),
        "preprocessing": (
            f"RGB from 0 to 1, short side scaled to {short_side(network.image_size)} ({network.interpolation}), central "
            "crop, minus mean, divided by std"
        ),
        "mean": json.dumps([round(float(value), 6) for value in MEAN]),
        "std": json.dumps([round(float(value), 6) for value in STD]),
    }


def _header(text: str) -> Header:
    fields = json.loads(text)
    return Header(Network(**fields["network"]), fields["class_names"])


def _onnx(path: Path) -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise UserError(
            f"{path} takes the package onnx to read and write; install it: pip install 'alexnet_dist[onnx]'"
        ) from None
    return onnx
