"""What a run has left for programs, read: run.json and the tables of its steps, epochs, ranks and events."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_dist.errors import UserError
from alexnet_dist.support.files import reading

TABLES = ("steps", "epochs", "ranks", "events")  # each in a file NAME.jsonl
INFO, PREDICTIONS = "run.json", "predictions.csv"
COMMON = ("time", "attempt", "epoch", "step")  # columns of every table
GOES_BACK = ("start", "resume", "restored")  # events after which the run goes on from their step

Row = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """A run's metrics. Each step, each epoch, and each rank of an epoch has one row, that of the attempt which counts.

    `info` is run.json. `events` are all that have happened, also in attempts of which some steps were made again.
    """

    info: dict[str, Any]
    steps: list[Row]
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
    back = [event for event in events if event.get("event") in GOES_BACK]
    steps, epochs, ranks = (
        [row for row in read_rows(folder, table) if not _made_again(row, back)]
        for table in ("steps", "epochs", "ranks")
    )
    attempts = {row["epoch"]: row["attempt"] for row in ranks}  # the last one; an earlier one may have had more ranks
    return RunRecord(
        info,
        _by_key(steps, "step"),
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
    path = folder / f"{table}.jsonl"
    try:
        with reading(path):
            lines = path.read_bytes().split(b"\n")[:-1]  # after the last line break is nothing, or a torn line
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not row.keys() >= {*COMMON}:
                raise ValueError
        except ValueError as error:
            wanted = f"no JSON object with {', '.join(COMMON)}"
            raise UserError(f"{path}:{number} is {wanted}: {line[:60]!r}. Remove this line") from error
        rows.append(row)
    return rows


def _made_again(row: Row, back: list[Row]) -> bool:
    """Whether the run has gone back, later, to before this row's step."""
    when = (row["attempt"], row["time"])
    return any(event["step"] < row["step"] and when < (event["attempt"], event["time"]) for event in back)


def _by_key(rows: list[Row], *columns: str) -> list[Row]:
    """The last row with the same values in these columns, in their order."""
    last = {tuple(row[column] for column in columns): row for row in rows}
    return [last[key] for key in sorted(last)]
