"""The figures of a report. Each is a chart of Altair's, a sentence on what it shows, and the rows behind it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_dist.reporting.themes import theme
from alexnet_dist.support.files import replacing, write_text

if TYPE_CHECKING:
    import altair as alt

WIDTH = 760  # pixels of a PNG's chart; on the page it is as wide as its place
SCALE = 2  # pixels of the file for each of these
TABLE_ROWS = 60  # of the table behind a chart on the page; the CSV has all rows


@dataclass(frozen=True)
class Figure:
    """A chart by its short name (of files, and of its place in the page), with its title and what it shows, in words.

    `rows` are all the numbers that the chart is drawn from; all have the same columns.
    """

    name: str
    title: str
    text: str
    chart: alt.LayerChart | alt.Chart
    rows: list[dict[str, Any]]

    def spec(self) -> dict[str, Any]:
        """The chart as Vega-Lite's JSON, as wide as its place in the page."""
        autosize = {"type": "fit-x", "contains": "padding"}
        return dict(self.chart.properties(width="container", autosize=autosize).to_dict())

    def png(self) -> bytes:
        """The chart as a PNG picture, in the light colours."""
        import altair
        import vl_convert

        chart = self.chart.properties(width=WIDTH, title=self.title).to_dict()
        version = vega_lite_version(altair.SCHEMA_VERSION)
        return bytes(vl_convert.vegalite_to_png(chart, vl_version=version, scale=SCALE, config=theme()))

    def csv(self) -> str:
        """The rows, below the names of their columns."""
        text = StringIO()
        writer = csv.DictWriter(text, columns(self.rows), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


def columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """All columns that occur, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row))


def vega_lite_version(schema: str) -> str:
    """`v6.1.0`, as Altair says it, in vl-convert's words: `6.1`."""
    return ".".join(schema.removeprefix("v").split(".")[:2])


def write_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Writes each figure as NAME.png and its rows as NAME.csv; returns the paths. Raises UserError."""
    paths = []
    for figure in figures:
        picture, table = folder / f"{figure.name}.png", folder / f"{figure.name}.csv"
        with replacing(picture) as temporary:
            temporary.write_bytes(figure.png())
        write_text(table, figure.csv())
        paths += [picture, table]
    return paths
