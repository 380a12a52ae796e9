"""alexnet-train with something that goes wrong on purpose: python faults.py NAME@NUMBER [flags of alexnet-train].

The fault strikes at the NUMBER-th call of what it replaces (a step, an image, a checkpoint), and leaves a file `struck`
in the current folder at that moment.
"""

import errno
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import alexnet_dist.data.decoded
import alexnet_dist.runs.checkpoint
import alexnet_dist.training.training_loader
from alexnet_dist import train
from alexnet_dist.comm.world import MPI
from alexnet_dist.data.loader import Batch
from alexnet_dist.training.engine import Engine

LAST = MPI.COMM_WORLD.rank == MPI.COMM_WORLD.size - 1


def strike() -> None:
    Path("struck").touch()


def halt(*_: Any, **__: Any) -> None:
    """Waits to be killed."""
    strike()
    while True:
        time.sleep(60)


def pause(*_: Any, **__: Any) -> None:
    """Waits for a file `go on`, or until a signal has come that the program heeds."""
    noticed, wakes = socket.socketpair()
    wakes.setblocking(False)
    before = signal.set_wakeup_fd(wakes.fileno())
    strike()
    while not Path("go on").exists() and not select.select([noticed], [], [], 0.01)[0]:
        pass
    signal.set_wakeup_fd(before)


def linger(*_: Any, **__: Any) -> None:
    """Waits for a file `go on`, whatever signals come: it needn't be the main thread that waits."""
    strike()
    while not Path("go on").exists():
        time.sleep(0.01)


def raise_exception(*_: Any, **__: Any) -> None:
    strike()
    raise RuntimeError("planted")


def leave(*_: Any, **__: Any) -> None:
    strike()
    sys.exit(3)


def die(*_: Any, **__: Any) -> None:
    strike()
    os.kill(os.getpid(), signal.SIGKILL)


def stop(*_: Any, **__: Any) -> None:
    strike()
    os.kill(os.getpid(), signal.SIGSTOP)


def raise_in_thread(*_: Any, **__: Any) -> None:
    threading.Thread(target=raise_exception).start()


def write_half(tensors: Any, path: Path, metadata: Any) -> None:
    """As if the machine stopped while a checkpoint is being written."""
    original_save(tensors, path, metadata)
    os.truncate(path, path.stat().st_size // 2)
    halt()


def fill_disk(tensors: Any, path: Path, metadata: Any) -> None:
    strike()
    path.write_bytes(b"some of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def spoil(engine: Engine, batch: Batch, *_: Any, **__: Any) -> None:
    """As if a file had held a NaN."""
    strike()
    batch.images.fill(np.nan)


def flip(engine: Engine, *_: Any, **__: Any) -> None:
    """As if a memory had lost a bit."""
    strike()
    engine.values.view(np.uint32)[engine.trained_from] ^= 1


def at_call(number: int, fault: Callable[..., None], original: Callable[..., Any]) -> Callable[..., Any]:
    """The original, but its number-th call (counted from 1) is the fault's first."""
    calls = 0

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            fault(*args, **kwargs)
        return original(*args, **kwargs)

    return stand_in


original_save = alexnet_dist.runs.checkpoint.save_file

FAULTS: dict[str, tuple[Any, str, Callable[..., None], bool]] = {  # where, what, by what, on the last rank alone
    "halt": (Engine, "step", halt, False),
    "pause": (Engine, "step", pause, True),  # the others wait for it in their step
    "exception": (Engine, "step", raise_exception, True),
    "exit": (Engine, "step", leave, True),
    "kill": (Engine, "step", die, True),
    "stop": (train, "given_flags", stop, True),
    "spoil": (Engine, "step", spoil, True),
    "flip": (Engine, "step", flip, True),
    "thread": (Engine, "step", raise_in_thread, True),
    "decoder": (alexnet_dist.training.training_loader, "load_for_training", raise_exception, True),
    "hang": (alexnet_dist.training.training_loader, "load_for_training", halt, True),
    "features": (alexnet_dist.data.decoded.EvaluationPixels, "load", halt, True),
    "validation": (alexnet_dist.data.decoded.EvaluationPixels, "load", linger, True),
    "half": (alexnet_dist.runs.checkpoint, "save_file", write_half, False),
    "disk": (alexnet_dist.runs.checkpoint, "save_file", fill_disk, False),
}

if __name__ == "__main__":
    name, number = sys.argv.pop(1).split("@")
    place, attribute, fault, last_rank_alone = FAULTS[name]
    if LAST or not last_rank_alone:
        setattr(place, attribute, at_call(int(number), fault, getattr(place, attribute)))
    raise SystemExit(train.main())
