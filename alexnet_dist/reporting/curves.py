"""Figures of how training went, for one run or several: loss, accuracy, learning rate, speed, and the work of each rank."""

from collections.abc import Mapping
from typing import Any

import altair as alt

from alexnet_dist.reporting.figures import Figure
from alexnet_dist.reporting.series import Rows, best_epoch, epoch_points, lr_drops, rank_seconds, step_points
from alexnet_dist.runs.metrics import RunRecord

RANKS = 40  # that a chart shows; of more, those that worked longest
WAITING = "wait"  # the phase that is no work
TALL, LOW = 280, 180  # pixels
LABELS = 8  # of learning rates, at most
STEPS, TRAINING, VALIDATION = "training, steps", "training, epoch", "validation"
ABOUT = {
    "loss": "Cross-entropy, the mean over images: the less, the better.",
    "top1": "The share of images whose class is the network's first guess.",
    "top5": "The share of images whose class is among the network's first five guesses.",
}
NUMBER = ".6~g"  # without a precision, Vega may write 10 as 1e+1
STROKES = alt.Legend(symbolType="stroke", symbolStrokeWidth=2, symbolOpacity=1)
AT = alt.X("at:Q", title="epoch", scale=alt.Scale(zero=True), axis=alt.Axis(grid=False, tickMinStep=1, format="d"))


def training_figures(runs: Mapping[str, RunRecord]) -> list[Figure]:
    """The figures of these runs by name that have anything to show."""
    made = [_loss(runs), _accuracy(runs, "top1", "Top-1 accuracy"), _accuracy(runs, "top5", "Top-5 accuracy")]
    made += [_learning_rate(runs), _speed(runs)]
    return [figure for figure in made if figure.rows]


def work_figure(name: str, run: RunRecord) -> Figure | None:
    """Where the time of each rank went; None if nothing is known."""
    rows = rank_seconds(run)
    if not rows:
        return None
    totals: dict[int, float] = {}
    for row in rows:
        row["place"] = f"rank {row['rank']}" + (f", {row['host']}" if row["host"] else "")
        totals[row["rank"]] = totals.get(row["rank"], 0.0) + row["seconds"] * (row["phase"] != WAITING)
    shown = set(sorted(totals, key=lambda rank: -totals[rank])[:RANKS])
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    chart = (
        alt.Chart(
            alt.Data(values=[{**row, "order": phases.index(row["phase"])} for row in rows if row["rank"] in shown])
        )
        .mark_bar(cornerRadius=0)
        .encode(
            alt.Y("place:N", title=None, sort=alt.EncodingSortField("rank", order="ascending")),
            alt.X("seconds:Q", title="seconds in all epochs", axis=alt.Axis(tickCount=5)),
            alt.Color("phase:N", sort=phases),
            alt.Order("order:Q"),
            tooltip=["place:N", "phase:N", alt.Tooltip("seconds:Q", format=",.1f")],
        )
        .properties(height=26 * len(shown))
    )
    longest, least = max(totals, key=lambda rank: totals[rank]), min(totals, key=lambda rank: totals[rank])
    text = "What each rank did: data is reading and decoding images, wait is for other ranks; all but that is work. "
    text += f"Rank {longest} worked longest, {totals[longest]:,.1f} s"
    text += f"; rank {least} least, {totals[least]:,.1f} s." if len(totals) > 1 else "."
    if len(totals) > RANKS:
        text += f" The {RANKS} ranks that worked longest of {len(totals)}."
    return Figure(name, "Where the time went", text, chart, rows)


def _loss(runs: Mapping[str, RunRecord]) -> Figure:
    rows = _curve(runs, "loss", steps=len(runs) == 1)
    chart = _lines(rows, "loss", runs, "loss", NUMBER).properties(height=TALL)
    return Figure("loss", "Loss", _said(runs, "loss", min, ".4f") + _each(rows), chart, rows)


def _accuracy(runs: Mapping[str, RunRecord], name: str, title: str) -> Figure:
    rows = _curve(runs, name, steps=False)
    chart = _lines(rows, name, runs, "share of images", "~%").properties(height=TALL if name == "top1" else LOW)
    return Figure(name, title, _said(runs, name, max, ".2%"), chart, rows)


def _learning_rate(runs: Mapping[str, RunRecord]) -> Figure:
    rows = [{"run": name, **_only(row, "lr")} for name, run in runs.items() for row in step_points(run)]
    drops = _drops(runs)
    scale, axis = alt.Scale(), alt.Axis(format=NUMBER, tickCount=5)
    # Falls by one factor look the same; the labels are rates that there were.
    if drops and all(row["lr"] for row in rows):
        rates = sorted({drop[end] for drop in drops for end in ("before", "lr")}, reverse=True)
        scale = alt.Scale(type="log", nice=False, padding=8)
        axis = alt.Axis(format=".3~g", values=rates[:: -(-len(rates) // LABELS)])
    line = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(interpolate="step-before")
        .encode(AT, alt.Y("lr:Q", title="learning rate", scale=scale, axis=axis), **_colour(runs))
        .encode(tooltip=["run:N", "step:Q", alt.Tooltip("lr:Q", format="~g")])
    )
    each = max((row["steps"] for row in rows), default=1)
    text = "How far a step moves the weights: the rate of " + (f"one step in {each:,}." if each > 1 else "each step.")
    text += _falls(runs)
    return Figure("learning-rate", "Learning rate", text, alt.layer(*_marks(runs), line).properties(height=LOW), rows)


def _speed(runs: Mapping[str, RunRecord]) -> Figure:
    name = "images_per_second"
    rows = [{"run": run, **_only(row, name)} for run, record in runs.items() for row in step_points(record)]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.5)
        .encode(
            AT,
            alt.Y(f"{name}:Q", title="images a second", axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=True)),
            **_colour(runs),
        )
        .encode(tooltip=["run:N", "step:Q", alt.Tooltip(f"{name}:Q", format=",.1f")])
        .properties(height=LOW)
    )
    text = "Images a second of all ranks together, while they train."
    return Figure("throughput", "Throughput", text + _each(rows), chart, rows)


def _curve(runs: Mapping[str, RunRecord], name: str, steps: bool) -> Rows:
    """The points of a curve of training and validation, and of the steps if wanted."""
    rows = []
    for run, record in runs.items():
        if steps:
            rows += [{"run": run, "of": STEPS, **_only(row, name)} for row in step_points(record) if name in row]
        for row in epoch_points(record):
            for prefix, of in (("train", TRAINING), ("val", VALIDATION)):
                if row.get(f"{prefix}_{name}") is not None:
                    rows.append(
                        {"run": run, "of": of, "at": row["at"], "step": row["step"], name: row[f"{prefix}_{name}"]}
                    )
    return rows


def _only(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: row[key] for key in ("at", "step", "steps", name)}


def _lines(rows: Rows, name: str, runs: Mapping[str, RunRecord], title: str, form: str) -> alt.LayerChart:
    """One run: a colour for what is measured. Several: a colour for each run, and the validation dashed."""
    found = [of for of in (VALIDATION, TRAINING, STEPS) if any(row["of"] == of for row in rows)]
    encoding: dict[str, Any] = {
        "x": AT,
        "y": alt.Y(f"{name}:Q", title=title, axis=alt.Axis(format=form, tickCount=6), scale=alt.Scale(zero=False)),
        "tooltip": ["run:N", "of:N", alt.Tooltip("at:Q", title="epoch", format=".2f"), "step:Q", f"{name}:Q"],
    }
    if len(runs) > 1:
        dashes = alt.Scale(domain=found, range=[[1, 0], [4, 4], [1, 3]][: len(found)])
        encoding |= {**_colour(runs), "strokeDash": alt.StrokeDash("of:N", scale=dashes, legend=STROKES)}
    else:
        encoding["color"] = alt.Color("of:N", sort=found, legend=STROKES)
    data = alt.Chart(alt.Data(values=rows)).encode(**encoding)
    faint = data.transform_filter(alt.datum.of == STEPS).mark_line(strokeWidth=1, opacity=0.6)
    clear = data.transform_filter(alt.datum.of != STEPS).mark_line(point=alt.OverlayMarkDef(size=30))
    layers = [faint, clear] if STEPS in found else [clear]
    return alt.layer(*_marks(runs), *layers)


def _marks(runs: Mapping[str, RunRecord]) -> list[alt.Chart]:
    """Lines where a learning rate has fallen, if any has."""
    drops = _drops(runs)
    texts = [alt.Tooltip("lr:Q", title="learning rate", format="~g"), alt.Tooltip("before:Q", format="~g"), "run:N"]
    return [alt.Chart(alt.Data(values=drops)).mark_rule().encode(AT, tooltip=texts)] if drops else []


def _drops(runs: Mapping[str, RunRecord]) -> Rows:
    return [{"run": name, **drop} for name, run in runs.items() for drop in lr_drops(run)]


def _colour(runs: Mapping[str, RunRecord]) -> dict[str, Any]:
    return {"color": alt.Color("run:N", sort=list(runs), legend=STROKES if len(runs) > 1 else None)}


def _each(rows: Rows) -> str:
    """Of how many steps a point is the mean, in words; "" if it is one."""
    each = max((row.get("steps", 1) for row in rows), default=1)
    return f" A point of the steps is the mean of up to {each:,}." if each > 1 else ""


def _falls(runs: Mapping[str, RunRecord]) -> str:
    """How often the rate of each run falls at once, in words."""
    text = ""
    for name, run in runs.items():
        whose, count = f"That of {name}" if len(runs) > 1 else "It", len(lr_drops(run))
        if count:
            text += f" {whose} falls {f'{count} times, at dotted lines' if count > 1 else 'once, at a dotted line'}."
    return text


def _said(runs: Mapping[str, RunRecord], name: str, best: Any, form: str) -> str:
    """What is measured, and the best and the last value of each run in validation, in words. Of equal ones, the best is that of
    the weights that were kept."""
    sentences, column = [ABOUT[name]], f"val_{name}"
    for run_name, run in runs.items():
        rows = [row for row in run.epochs if row.get(column) is not None]
        if rows:
            peak, kept = best(row[column] for row in rows), best_epoch(run)
            equal = [row for row in rows if row[column] == peak]
            chosen = kept if kept in equal else equal[0]
            start = f"{run_name}: best" if len(runs) > 1 else "Best"
            after = f"after epoch {chosen['epoch']}; {rows[-1][column]:{form}} at the end."
            sentences.append(f"{start} in validation {chosen[column]:{form}}, {after}")
    return " ".join(sentences)
