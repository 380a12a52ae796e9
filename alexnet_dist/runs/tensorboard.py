"""A run's metrics as TensorBoard reads them: event files, written by tensorboardX."""

import os
from datetime import datetime
from importlib import import_module
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.runs.log import log
from alexnet_dist.runs.metrics import GOES_BACK, Row
from alexnet_dist.support.files import writing

FOLDER = "tensorboard"  # in the run's folder
SHOWN = ("steps", "epochs")  # tables
PLACES = {"time", "attempt", "epoch", "step", "best"}  # columns that say where a row belongs


def require_tensorboard() -> None:
    """Raises UserError if tensorboardX isn't installed."""
    try:
        import_module("tensorboardX")
    except ModuleNotFoundError as error:
        raise UserError(
            f"--tensorboard needs the package {error.name}, which is not installed: "
            "pip install 'alexnet_dist[tensorboard]'"
        ) from error


class EventFile:
    """The scalars of steps and epochs, under TABLE/COLUMN, in one file for each attempt. A listener of RunLog.

    Where the run goes back, as it does when it is resumed, TensorBoard is told to forget what came after. (An epoch whose
    validation is done again then is there twice, at the same place.) Each row is one
    event, written at once: tensorboardX's own SummaryWriter would queue them, and training would wait forever for its
    thread where that has met a full disk. Raises UserError.
    """

    def __init__(self, run: Path, attempt: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        folder = run / FOLDER
        with writing(folder):
            folder.mkdir(exist_ok=True)
            self._writer: EventsWriter | None = EventsWriter(os.fspath(folder / "events"), f".{attempt}")

    def add(self, table: str, row: Row) -> None:
        """A row of a run's tables. Where it can't be written, people are told once, and nothing more is written here."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        when = datetime.fromisoformat(row["time"]).timestamp()
        if table in SHOWN:
            numbers = {name: value for name, value in row.items() if name not in PLACES and value is not None}
            values = [Summary.Value(tag=f"{table}/{name}", simple_value=value) for name, value in numbers.items()]
            self._write(Event(wall_time=when, step=row["step"], summary=Summary(value=values)))
        elif row.get("event") in GOES_BACK:
            start = SessionLog(status=SessionLog.SessionStatus.START)
            self._write(Event(wall_time=when, step=row["step"] + 1, session_log=start))

    def _write(self, event: object) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            log.warning("WARNING: TensorBoard's events can't be written: %s. Training goes on without", error.strerror)
            self._writer = None  # what followed a torn event couldn't be read
