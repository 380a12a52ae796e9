"""Whether the copies of the parameters are still the same: each epoch, their checksums are compared.

Nothing else would tell. Every rank, or node, computes its copy from the same sums, so that the copies stay the same to the
bit; a fault of a memory, a processor or a cable that changes one of them changes all later gradients, without an error.
"""

import json
import os
import zlib
from collections import Counter

import numpy as np

from alexnet_dist.errors import PARTED, SharedError
from alexnet_dist.support.workspace import Workspace
from alexnet_dist.training.engine import Engine

BLOCK = 1 << 20  # floats that a thread takes at once


class Parted(SharedError):
    """The copies of the parameters, or of the optimizer's state, are no longer the same. Raised by all ranks."""

    exit_code = PARTED


def compare_replicas(engine: Engine, remedy: str) -> None:
    """Collective: raises Parted, with who and what differs, then `remedy`, unless all copies are the same."""
    mine = {"host": os.uname().nodename, "sums": _checksums(engine)}
    copies = [json.loads(text) for text in engine.world.all_texts([json.dumps(mine)])]
    names = {rank: f"rank {rank} ({copy['host']})" for rank, copy in enumerate(copies) if copy["sums"]}
    for what in ("parameters", *engine.state):
        sums = {rank: copies[rank]["sums"][what] for rank in names}
        if len(set(sums.values())) > 1:
            raise Parted(f"the copies of the {what} have parted: {_odd_ones(sums, names)}. {remedy}")


def _odd_ones(sums: dict[int, int], names: dict[int, str]) -> str:
    """Who differs from more than half of all, if so many are the same."""
    usual, count = Counter(sums.values()).most_common(1)[0]
    if 2 * count <= len(sums):
        return f"those of {', '.join(names.values())} are not the same, and which are right can't be told"
    return f"{', '.join(names[rank] for rank, value in sums.items() if value != usual)} differs from the others"


def _checksums(engine: Engine) -> dict[str, int]:
    """Of this rank's copy, by name; empty where no other rank has one of its own."""
    copied = engine.strategy.copied()
    trained = [(max(lo, engine.trained_from), hi) for lo, hi in copied if hi > engine.trained_from]
    arrays = [("parameters", engine.values, copied), *((name, array, trained) for name, array in engine.state.items())]
    return {name: _checksum(engine, array, ranges) for name, array, ranges in arrays} if copied else {}


def _checksum(engine: Engine, array: np.ndarray, ranges: list[tuple[int, int]]) -> int:
    """The CRC-32 of the blocks' CRC-32s, which doesn't depend on the number of threads."""
    sums: list[bytes] = []
    for lo, hi in ranges:
        of_blocks = np.zeros(-(-(hi - lo) // BLOCK), np.uint32)

        def task(start: int, end: int, _: Workspace, lo: int = lo, out: np.ndarray = of_blocks) -> None:
            out[start // BLOCK] = zlib.crc32(array[lo + start : lo + end].data)

        engine.team.for_each(hi - lo, BLOCK, task)
        sums.append(of_blocks.tobytes())
    return zlib.crc32(b"".join(sums))
