"""What the fuzzer does to inputs that are right, to make wrong ones: strategies of hypothesis."""

import io
import json
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_dist.errors import UserError

SECONDS = float(os.environ.get("ALEXNET_FUZZ_SECONDS", "0"))  # for each test; 0: some examples, always the same
FEW, MANY = 40, 200  # examples at once
GIGABYTE = 1 << 20  # in kilobytes, as ru_maxrss

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([0, -1, 1, 2**31, 2**32, 2**63, 10**9, 1e308, "", "\0", "../x", "inf", "nan"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def fuzz(strategy: st.SearchStrategy[Any], check: Callable[[Any], object], *finds: Any) -> None:
    """Calls `check` with many values: it may raise UserError and nothing else, and must not need a gigabyte. `finds` are
    values that once led to something else."""
    for find in finds:
        with pytest.raises(UserError):
            check(find)
    before, end, number = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic() + SECONDS, 0

    def once(value: Any) -> None:
        with suppress(UserError):
            check(value)

    while number == 0 or time.monotonic() < end:
        options = settings(
            max_examples=MANY if SECONDS else FEW,
            deadline=None,
            database=None,
            derandomize=not SECONDS,
            suppress_health_check=list(HealthCheck),
        )
        run = options(given(strategy)(once))
        (seed(time.time_ns())(run) if SECONDS else run)()
        number += 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIGABYTE


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with some changes: others, fewer, more, twice."""
    place = st.integers(0, max(len(content) - 1, 0))
    some = st.binary(max_size=8) | st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\n"])
    change = st.tuples(st.sampled_from(["replace", "insert", "cut", "drop", "twice"]), place, some)
    return st.lists(change, min_size=1, max_size=4).map(lambda changes: changed(content, changes))


def changed(content: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """The bytes after some changes, each at a place."""
    for kind, place, some in changes:
        head, tail = content[:place], content[place:]
        match kind:
            case "replace":
                content = head + some + tail[len(some) :]
            case "insert":
                content = head + some + tail
            case "cut":
                content = head
            case "drop":
                content = head + tail[len(some) + 1 :]
            case "twice":
                content = head + tail[: 64 * len(some)] + tail
    return content


def twisted(value: Any) -> st.SearchStrategy[Any]:
    """A JSON value in which one or two of the parts are something else, or missing."""
    paths = list(_paths(value))
    change = st.tuples(st.sampled_from(paths), st.booleans(), JUNK)
    return st.lists(change, min_size=1, max_size=2).map(lambda changes: _twist(value, changes))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from _paths(inner, (*path, key))


def _twist(value: Any, changes: list[tuple[tuple[Any, ...], bool, Any]]) -> Any:
    value = json.loads(json.dumps(value))
    for path, remove, junk in changes:
        if not path:
            value = junk
            continue
        place = value
        try:
            for key in path[:-1]:
                place = place[key]
            if remove:
                del place[path[-1]]
            else:
                place[path[-1]] = junk
        except (KeyError, IndexError, TypeError):  # an earlier change has taken it away
            continue
    return value


def draw(mode: str, kind: str, **options: object) -> bytes:
    """A small image of one of Pillow's modes, as a file."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()
