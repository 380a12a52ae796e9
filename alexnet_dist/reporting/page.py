"""The page: everything that is known of some runs, in one HTML file that needs no network."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any

import altair
import jinja2
import vl_convert

from alexnet_dist.errors import UserError
from alexnet_dist.reporting.classes import classes_figure, confusion_figure
from alexnet_dist.reporting.curves import training_figures, work_figure
from alexnet_dist.reporting.facts import configuration, differences, facts
from alexnet_dist.reporting.figures import TABLE_ROWS, Figure, columns, vega_lite_version
from alexnet_dist.reporting.pictures import data_uri, filters_png, thumbnails
from alexnet_dist.reporting.predictions import FILE, Predicted, best_and_worst, confusion, read_predictions
from alexnet_dist.reporting.themes import theme
from alexnet_dist.runs.metrics import RunRecord, read_run
from alexnet_dist.support.files import write_text

SHOWN = 12  # best predictions, and worst ones, of each run
PAIRS = 10  # of classes that are confused
SHARES = {"share", "accuracy", "precision"}  # columns of tables that are shown in percent


@dataclass(frozen=True)
class RunView:
    """What the page says of one run."""

    name: str
    folder: Path
    record: RunRecord
    facts: dict[str, str]
    configuration: dict[str, dict[str, str]]
    figures: list[Figure]
    pairs: list[dict[str, Any]]
    best: list[Predicted]
    worst: list[Predicted]
    thumbnails: dict[str, str] = field(repr=False)
    filters: str  # a data URI, or ""
    filter_count: int
    notes: list[str]  # what is left out, and why


@dataclass(frozen=True)
class Report:
    """Some runs, read."""

    runs: list[RunView]
    figures: list[Figure]  # of all runs together

    def all_figures(self) -> list[Figure]:
        """Those of all runs together, then those of each."""
        return [*self.figures, *(figure for run in self.runs for figure in run.figures)]

    def summary(self) -> list[dict[str, str]]:
        """A row for each run."""
        return [{"run": run.name, **run.facts} for run in self.runs]

    def write(self, path: Path) -> None:
        """Writes the page. Raises UserError."""
        write_text(path, self.html())

    def html(self) -> str:
        """The page."""
        environment = jinja2.Environment(
            loader=jinja2.FunctionLoader(_file), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"cell": cell, "columns": columns}
        version = vega_lite_version(altair.SCHEMA_VERSION)
        library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
        page = environment.get_template("page.html").render(
            report=self,
            title=f"Training of {self.runs[0].name}" if len(self.runs) == 1 else f"{len(self.runs)} runs compared",
            differences=differences({run.name: run.record for run in self.runs}),
            specs={figure.name: figure.spec() for figure in self.all_figures()},
            themes={"light": theme(), "dark": theme(dark=True)},
            library=library.replace("</script", "<\\/script").replace("<!--", "<\\!--"),
            table_rows=TABLE_ROWS,
        )
        return page.encode(errors="backslashreplace").decode()  # paths in it may not be UTF-8


def read_report(folders: Sequence[Path]) -> Report:
    """Reads the runs in these folders. Raises UserError for a folder that holds none."""
    records = dict(zip(names(folders), map(read_run, folders), strict=True))
    views = [
        _view(name, folder, record, f"-{number}" if len(records) > 1 else "")
        for number, (folder, (name, record)) in enumerate(zip(folders, records.items(), strict=True), 1)
    ]
    return Report(views, training_figures(records))


def names(folders: Sequence[Path]) -> list[str]:
    """A short name for each folder: its own, with as much of its path as tells it from the others. Bytes of it that aren't
    UTF-8 are escaped. Raises UserError for a folder that is given twice."""
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise UserError("a run is given twice: leave one of them out")
    parts = [os.fsencode(path).decode(errors="backslashreplace").split(os.sep) for path in resolved]
    depth = next(depth for depth in count(1) if len({tuple(part[-depth:]) for part in parts}) == len(parts))
    return [os.sep.join(part[-depth:]) for part in parts]


def cell(value: Any, column: str) -> str:
    """A value of a table, for people."""
    if value is None:
        return "-"
    if column in SHARES:
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "yes" if value is True else "no" if value is False else str(value)


def _view(name: str, folder: Path, record: RunRecord, suffix: str) -> RunView:
    figures: list[Figure | None] = [work_figure(f"ranks{suffix}", record)]
    notes, filters, filter_count = [], "", 0
    predictions = read_predictions(folder / FILE)
    pairs: list[dict[str, Any]] = []
    if predictions:
        counts = confusion(predictions, record.info.get("class_names"))
        figures += [confusion_figure(f"confusion{suffix}", counts), classes_figure(f"classes{suffix}", counts)]
        pairs = counts.pairs(PAIRS)
    else:
        notes.append(f"There are no predictions yet: {folder / FILE} is written after a validation.")
    best, worst = best_and_worst(predictions, SHOWN)
    pictures, problems = thumbnails(record.info, [one.image for one in (*worst, *best)])
    notes += [f"Image left out: {problem}" for problem in problems]
    try:
        content, filter_count = filters_png(folder / "best.safetensors")
        filters = data_uri(content, "image/png")
    except UserError as error:
        notes.append(f"No filters: {error}")
    return RunView(
        name, folder, record, facts(record), configuration(record), [one for one in figures if one],
        pairs, best, worst, pictures, filters, filter_count, notes,
    )  # fmt: skip


def _file(name: str) -> str:
    return resources.files("alexnet_dist.reporting").joinpath(name).read_text(encoding="utf-8")
