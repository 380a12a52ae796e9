"""How far a command has come: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

INTERVAL = 10.0  # seconds between lines

Item = TypeVar("Item")


def track(items: Sequence[Item], what: str, shown: bool = True) -> Iterator[Item]:
    """The items, one after the other; says on stderr how many have been taken, if `shown`."""
    if not shown:
        yield from items
    elif sys.stderr.isatty():
        # Imported here, where it is needed: the import takes longer than some commands.
        from rich.console import Console
        from rich.progress import track as bar

        yield from bar(items, what, console=Console(stderr=True))
    else:
        yield from _lines(items, what)


def _lines(items: Sequence[Item], what: str) -> Iterator[Item]:
    last = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - last >= INTERVAL:
            print(f"{what}: {number} of {len(items)}", file=sys.stderr, flush=True)
            last = time.monotonic()
        yield item
