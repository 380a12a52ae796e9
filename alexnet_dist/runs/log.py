"""A run's output: a log for people on the screen and in a file, and metrics for programs, see metrics.py.

Only rank 0 writes. On the other ranks the same calls do nothing, so that all ranks run the same code.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alexnet_dist.errors import UserError
from alexnet_dist.runs.metrics import INFO, TABLES, Row, read_info
from alexnet_dist.runs.rows import RowsFile
from alexnet_dist.support.files import write_text, writing
from alexnet_dist.support.readable_json import dump_json

log = logging.getLogger("alexnet_dist")


class RunLog:
    """`train.log` and the tables of metrics in a run's folder, all appended to; silent unless `enabled`.

    `attempt` counts how often the run has been started, this time included. Each of `listeners` is called with a table's
    name and each row that is added to it. Lines that people were told before the log was opened, `said`, go to the file
    alone; later ones to `screen`, too, which is stdout unless another is given. Raises UserError where the folder can't be
    written.
    """

    def __init__(
        self, folder: Path, enabled: bool, said: Sequence[str] = (), screen: logging.Handler | None = None
    ) -> None:
        self.folder, self.enabled, self.attempt = folder, enabled, 1
        self.listeners: list[Callable[[str, Row], None]] = []
        self._tables: dict[str, RowsFile] = {}
        self._failing: set[str] = set()  # tables that can't be written
        log.handlers.clear()
        log.propagate = False
        log.setLevel(logging.INFO if enabled else logging.CRITICAL + 1)
        if not enabled:
            return
        logging.raiseExceptions = False  # on a full disk, no traceback for each line
        with writing(folder):
            self._open(folder, said, screen or logging.StreamHandler(sys.stdout))

    def _open(self, folder: Path, said: Sequence[str], screen: logging.Handler) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        screen.setFormatter(logging.Formatter("%(message)s"))
        for handler in (screen, _log_file(folder)):
            log.addHandler(handler)
        self.note(*said)
        self._tables = {name: RowsFile(folder / f"{name}.jsonl") for name in TABLES}
        self.attempt += max(int(table.last().get("attempt", 0)) for table in self._tables.values())

    def note(self, *lines: str) -> None:
        """Lines that people are told elsewhere: to the file alone."""
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler):
                for line in lines:
                    handler.handle(_record(line))

    def describe(self, info: dict[str, Any], start: Row) -> None:
        """Writes run.json: what is known of the run, and its starts, of which this one is the last."""
        if not self._tables:
            return
        before: list[Row] = []
        with suppress(UserError):  # what can't be read is lost, and not worth more than the run
            before = read_info(self.folder).get("starts", [])
        starts = [*before, {"attempt": self.attempt, "time": now(), **start}]
        self.replace(INFO, dump_json({**info, "starts": starts}, indent=1) + "\n")

    def replace(self, name: str, text: str) -> None:
        """Writes a whole file of the run's folder anew; where that can't be done, people are told, and the run goes on."""
        if not self._tables:
            return
        try:
            write_text(self.folder / name, text)
        except UserError as error:
            log.warning("WARNING: %s. Training goes on without", error)

    def metrics(self, table: str, **values: Any) -> None:
        """Adds a row to a table. Where that can't be written it is left out: the run is worth more. That is said once, and
        once when it works again."""
        if not self._tables:
            return
        file, row = self._tables[table], {"time": now(), "attempt": self.attempt, **values}
        try:
            file.add(row)
        except OSError as error:
            if not self._failing:
                log.warning("WARNING: %s can't be written: %s. Training goes on without", file.name, error.strerror)
            self._failing.add(table)
        else:
            if self._failing == {table}:
                log.warning("%s can be written again", file.name)
            self._failing.discard(table)
        for listener in self.listeners:
            listener(table, row)

    def last(self, table: str) -> Row:
        """The latest row of a table, which an earlier start may have added; empty if there is none."""
        return self._tables[table].last() if self._tables else {}

    def sync(self) -> None:
        """Flushes all files to the disk: before a state that is newer than their last lines would be there without them."""
        for table in self._tables.values():
            with suppress(OSError):
                table.sync()
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler) and handler.stream is not None:
                with suppress(OSError):
                    os.fsync(handler.stream.fileno())

    def close(self) -> None:
        """Closes the files."""
        for handler in log.handlers:
            handler.close()
        log.handlers.clear()
        for table in self._tables.values():
            with suppress(OSError):  # a failure to write has been reported already
                table.close()


def say(folder: Path, line: str) -> None:
    """Tells people one thing more after the log of the run in this folder has been closed: on stdout, and in its file."""
    print(line, flush=True)
    with suppress(OSError), closing(_log_file(folder)) as file:
        file.handle(_record(line))


def _log_file(folder: Path) -> logging.FileHandler:
    # Names of files may not be UTF-8.
    file = logging.FileHandler(folder / "train.log", encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    return file


def _record(line: str) -> logging.LogRecord:
    return log.makeRecord(log.name, logging.INFO, "", 0, line, (), None)


def now() -> str:
    """The time as metrics have it: ISO 8601 in UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def warn(rank: int, ranks: int, text: str) -> None:
    """Tells people of the trouble of one of so many ranks: any of them, and any thread, may call this."""
    line = f"WARNING: {f'rank {rank}: ' if ranks > 1 else ''}{text}"
    if rank == 0:
        log.warning("%s", line)
    else:
        sys.stderr.write(f"{line}\n")  # one write, so that the lines of several ranks don't mingle
        sys.stderr.flush()
