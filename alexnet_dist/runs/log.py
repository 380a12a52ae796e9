"""A run's output: a log for people on stdout and in a file, and metrics for programs, one JSON object a line.

Only rank 0 writes. On the other ranks the same calls do nothing, so that all ranks run the same code. Under mpirun,
stdout is often not a terminal: there are no progress bars, only whole lines.
"""

import errno
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from alexnet_dist.support.files import writing

log = logging.getLogger("alexnet_dist")


class RunLog:
    """`train.log` and `metrics.jsonl` in a run's folder, both appended to; silent unless `enabled`.

    Lines that people were told before it was opened, `said`, go to the file alone.
    Raises UserError where the folder can't be written.
    """

    def __init__(self, folder: Path, enabled: bool, said: Sequence[str] = ()) -> None:
        self._metrics: FileIO | None = None
        self._failed = False
        log.handlers.clear()
        log.propagate = False
        log.setLevel(logging.INFO if enabled else logging.CRITICAL + 1)
        if not enabled:
            return
        logging.raiseExceptions = False  # on a full disk, no traceback for each line
        with writing(folder):
            self._open(folder, said)

    def _open(self, folder: Path, said: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stamped = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
        # Names of files may not be UTF-8.
        file = logging.FileHandler(folder / "train.log", encoding="utf-8", errors="backslashreplace")
        for handler in (logging.StreamHandler(sys.stdout), file):
            handler.setFormatter(
                stamped if isinstance(handler, logging.FileHandler) else logging.Formatter("%(message)s")
            )
            log.addHandler(handler)
        self.note(*said)
        self._metrics = FileIO(folder / "metrics.jsonl", "a+")
        _cut_torn_line(self._metrics)

    def note(self, *lines: str) -> None:
        """Lines that people are told elsewhere: to the file alone."""
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler):
                for line in lines:
                    handler.handle(log.makeRecord(log.name, logging.INFO, "", 0, line, (), None))

    def metrics(self, event: str, **values: Any) -> None:
        """Appends one line of metrics. Where that can't be written it is left out: the run is worth more. That is said
        once, and once when it works again."""
        if self._metrics is None:
            return
        line = json.dumps({"event": event, **values}).encode() + b"\n"
        try:
            if self._metrics.write(line) != len(line):  # the disk is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if not self._failed:
                log.warning(
                    "WARNING: %s can't be written: %s. Training goes on without", self._metrics.name, error.strerror
                )
            self._failed = True
            with suppress(OSError):
                _cut_torn_line(self._metrics)
        else:
            if self._failed:
                log.warning("%s can be written again", self._metrics.name)
            self._failed = False

    def sync(self) -> None:
        """Flushes both files to the disk: before a state that is newer than their last lines would be there without them."""
        if self._metrics is None:
            return
        with suppress(OSError):
            os.fsync(self._metrics.fileno())
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler) and handler.stream is not None:
                with suppress(OSError):
                    os.fsync(handler.stream.fileno())

    def close(self) -> None:
        """Closes the files."""
        for handler in log.handlers:
            handler.close()
        log.handlers.clear()
        if self._metrics is not None:
            with suppress(OSError):  # a failure to write has been reported already
                self._metrics.close()


def warn(rank: int, ranks: int, text: str) -> None:
    """Tells people of the trouble of one of so many ranks: any of them, and any thread, may call this."""
    line = f"WARNING: {f'rank {rank}: ' if ranks > 1 else ''}{text}"
    if rank == 0:
        log.warning("%s", line)
    else:
        sys.stderr.write(f"{line}\n")  # one write, so that the lines of several ranks don't mingle
        sys.stderr.flush()


def _cut_torn_line(file: FileIO) -> None:
    """Ends a file of lines after its last whole line: the rest was being written when the power or the disk failed."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        file.seek(start)
        line_break = file.read(end - start).rfind(b"\n")
        if line_break >= 0:
            end = start + line_break + 1
            break
        end = start
    file.truncate(end)
