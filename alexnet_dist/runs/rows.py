"""A file of rows, one JSON object a line, that a run adds to: what is read afterwards are whole lines only."""

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from alexnet_dist.support.files import reading, replacing
from alexnet_dist.support.readable_json import dump_json

BLOCK = 65536  # bytes that are read at once from the end


class RowsFile:
    """Rows are added at the end of `path`, without a buffer. Opening it cuts a line that was torn. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = FileIO(path, "a+")
        _cut_torn_line(self._file)

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self._file.name)

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row; numbers that aren't finite, which JSON doesn't know, become null. Raises OSError where it can't be
        written; what is there of it is then cut again."""
        content = dump_json({name: _known(value) for name, value in row.items()}).encode() + b"\n"
        try:
            if self._file.write(content) != len(content):  # the disk is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                _cut_torn_line(self._file)
            raise

    def last(self) -> dict[str, Any]:
        """The last row; empty if there is none."""
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, end - BLOCK))
        lines = self._file.read(BLOCK).splitlines()
        try:
            row = json.loads(lines[-1]) if lines else {}
        except ValueError:
            return {}
        return row if isinstance(row, dict) else {}

    def sync(self) -> None:
        """Flushes it to the disk. Raises OSError."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file. Raises OSError."""
        self._file.close()


def copy_rows(source: Path, target: Path, step: int) -> None:
    """Begins a file of rows, unless some are there, with those of another up to this step. Raises UserError."""
    with reading(source):
        if not source.is_file() or (target.exists() and target.stat().st_size):
            return
    with replacing(target) as temporary, open(temporary, "wb") as file:
        file.writelines(_rows_up_to(source, step))


def _rows_up_to(source: Path, step: int) -> Iterator[bytes]:
    with reading(source), open(source, "rb") as rows:
        yield from (line for line in rows if _step(line) <= step)


def _step(line: bytes) -> float:
    """The step of a row; infinite for what is none, such as a line that was torn."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cut_torn_line(file: FileIO) -> None:
    """Ends a file of lines after its last whole line: the rest was being written when the power or the disk failed."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - BLOCK)
        file.seek(start)
        line_break = file.read(end - start).rfind(b"\n")
        if line_break >= 0:
            end = start + line_break + 1
            break
        end = start
    file.truncate(end)
