"""What a run has left for programs, read: run.json and the tables of its steps, epochs, ranks and events."""

import json
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.errors import UserError
from alexnet_dist.support.files import reading

TABLES = ("steps", "epochs", "ranks", "events")  # each in a file NAME.jsonl
INFO, PREDICTIONS = "run.json", "predictions.csv"
COMMON = ("time", "attempt", "epoch", "step")  # columns of every table
GOES_BACK = ("start", "resume", "restored")  # events after which the run goes on from their step
PHASES = ("seconds_data", "seconds_forward", "seconds_backward", "seconds_wait", "seconds_update")
MEASURED = ("loss", "top1", "top5", "lr", "images", "images_per_second", *PHASES)  # columns of steps besides the common
STEP = np.dtype([("time", "M8[ms]"), *((name, "i8") for name in COMMON[1:]), *((name, "f8") for name in MEASURED)])
PACKED = struct.Struct(f"={len(COMMON)}q{len(MEASURED)}d")  # a STEP as bytes

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run's metrics. Each step, each epoch, and each rank of an epoch has one row, that of the attempt which counts.

    `info` is run.json. `steps` is an array of NumPy's with a field for each column: `steps["loss"]` are the losses, in
    float64 as all that is measured, with NaN for what isn't there; `time` is in UTC. A million steps take 120 MB. The
    other tables are lists of dicts. `events` are all that have happened, also in attempts of which some steps were made
    again.
    """

    info: dict[str, Any]
    steps: NDArray[np.void]
    epochs: list[Row]
    ranks: list[Row]
    events: list[Row]


def read_run(folder: Path) -> RunRecord:
    """The record of the run in this folder, which may still be going on. Raises UserError where there is none."""
    info = read_info(folder)
    if not info:
        old = " (metrics.jsonl is of an earlier version)" if (folder / "metrics.jsonl").exists() else ""
        raise UserError(f"{folder} is no run's folder: it has no {INFO} that can be read{old}. Give an --output-dir")
    events = read_rows(folder, "events")
    counts = _which_count(events)
    steps, epochs = (filter(counts, _rows(folder / f"{table}.jsonl")) for table in ("steps", "epochs"))
    ranks = [row for row in read_rows(folder, "ranks") if counts(row)]
    attempts = {row["epoch"]: row["attempt"] for row in ranks}  # the last one; an earlier one may have had more ranks
    return RunRecord(
        info,
        _compact(steps, folder / "steps.jsonl"),
        _by_key(epochs, "epoch"),
        _by_key([row for row in ranks if row["attempt"] == attempts[row["epoch"]]], "epoch", "rank"),
        events,
    )


def read_info(folder: Path) -> dict[str, Any]:
    """What run.json holds; empty if it isn't there, or isn't JSON. Raises StorageError."""
    try:
        with reading(folder / INFO):
            info = json.loads((folder / INFO).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def read_rows(folder: Path, table: str) -> list[Row]:
    """All rows of a table, as they were written; a last line that is torn is left out. Raises UserError for other lines
    that aren't JSON objects."""
    return list(_rows(folder / f"{table}.jsonl"))


def _rows(path: Path) -> Iterator[Row]:
    """The rows one by one, for those of all steps together would take 2 KB each."""
    try:
        with reading(path), open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):  # else it is torn, or is being written
                    yield _row(line, f"{path}:{number}")
    except FileNotFoundError:
        return


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or [type(row.get(name)) for name in COMMON] != [str, int, int, int]:
            raise ValueError
    except ValueError as error:
        wanted = f"no JSON object with {', '.join(COMMON)}"
        raise UserError(f"{where} is {wanted}: {line[:60]!r}. Remove this line") from error
    return row


def _compact(rows: Iterable[Row], path: Path) -> NDArray[np.void]:
    """The rows of steps as an array, in the order of the steps; the last row of each step."""
    content = bytearray()
    for row in rows:
        try:
            time = round(1000 * datetime.fromisoformat(row["time"]).timestamp())
            measured = (nan if row.get(name) is None else row[name] for name in MEASURED)
            content += PACKED.pack(time, *(row[name] for name in COMMON[1:]), *measured)
        except (struct.error, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: the row of step {row['step']} has no time, or no number. Remove this line"
            ) from error
    steps = np.frombuffer(content, STEP)
    if (np.diff(steps["step"]) > 0).all():  # as nearly always; what follows takes as much memory again
        return steps
    _, last = np.unique(steps["step"][::-1], return_index=True)
    return steps[::-1][last]


def _which_count(events: Iterable[Row]) -> Callable[[Row], bool]:
    """Says of a row whether it counts: whether the run has not gone back, later, to before its step."""
    back = sorted(
        (event["attempt"], event["time"], event["step"]) for event in events if event.get("event") in GOES_BACK
    )
    times = [(attempt, time) for attempt, time, _ in back]
    earliest = [*accumulate((step for *_, step in reversed(back)), min)][::-1]  # to which each or a later one goes back

    def counts(row: Row) -> bool:
        later = bisect_right(times, (row["attempt"], row["time"]))
        return later == len(back) or row["step"] <= earliest[later]

    return counts


def _by_key(rows: Iterable[Row], *columns: str) -> list[Row]:
    """The last row with the same values in these columns, in their order."""
    last = {tuple(row[column] for column in columns): row for row in rows}
    return [last[key] for key in sorted(last)]
