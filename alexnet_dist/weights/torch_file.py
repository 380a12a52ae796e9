"""PyTorch's .pth files of AlexNet: torchvision's state_dict. Only these need PyTorch, which runs no code of theirs."""

from pathlib import Path
from typing import Any

import numpy as np

from alexnet_dist.errors import UserError
from alexnet_dist.runs.checkpoint import Header
from alexnet_dist.support.files import replacing
from alexnet_dist.weights.tensors import tensors_of, weights_of

# Under which of their keys scripts keep the weights beside other things: torchvision's references, pytorch/examples.
CONTAINERS = ("model", "state_dict")


def read_torch(path: Path) -> tuple[Header, np.ndarray]:
    """A state_dict with torchvision's keys, alone or inside the checkpoint of a training script. Raises UserError."""
    torch = _torch(path)
    if not path.is_file():
        raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, from pickle's, zip's and PyTorch's own
        reason = str(error).split("\n")[0][:200]
        raise UserError(
            f"{path} can't be read as tensors alone ({reason}). Save the weights by themselves: "
            "torch.save(model.state_dict(), file)"
        ) from error
    if isinstance(content, dict):
        content = next((content[key] for key in CONTAINERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state_dict; write one with torch.save(model.state_dict(), file)")
    # DataParallel puts `module.` before the names of what it wraps: the network, or its features alone.
    tensors = {name.replace("module.", ""): value.detach().float().numpy() for name, value in content.items()}
    return weights_of(path, tensors, None)


def write_torch(path: Path, header: Header, flat: np.ndarray) -> None:
    """What `torchvision.models.alexnet().load_state_dict(torch.load(path))` takes; it has no room for class names."""
    torch = _torch(path)
    state = {name: torch.from_numpy(value) for name, value in tensors_of(header, flat).items()}
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} takes PyTorch to read and write; install it: "
            "pip install torch --index-url https://download.pytorch.org/whl/cpu"
        ) from None
    return torch
