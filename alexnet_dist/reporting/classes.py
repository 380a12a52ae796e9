"""Figures of a run's predictions: which classes are taken for which, and how well each is recognised."""

import altair as alt

from alexnet_dist.reporting.figures import Figure
from alexnet_dist.reporting.predictions import Confusion
from alexnet_dist.reporting.themes import ON_PALE, ON_STRONG

MATRIX, BARS = 24, 40  # classes that a matrix, and a chart of bars, can show so that one can read it
STRONG = 0.6  # from this share on, a cell is so dark (in the dark, so light) that its number has the other colour
COUNTED = 16  # classes of a matrix whose cells have room for their number


def confusion_figure(name: str, whole: Confusion) -> Figure:
    """The matrix; of many classes, that of those which have the most to do with mistakes."""
    part = whole.reduced(MATRIX)
    images = {one: int(count) for one, count in zip(whole.names, whole.counts.sum(1), strict=True)}
    rows = [
        {"class": row, "taken for": column, "images": int(count), "share": int(count) / max(images[row], 1)}
        for row, counts in zip(part.names, part.counts, strict=True)
        for column, count in zip(part.names, counts, strict=True)
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        alt.X("taken for:N", sort=part.names, title="taken for", axis=alt.Axis(labelAngle=-45, labelLimit=90)),
        alt.Y("class:N", sort=part.names, title="class", axis=alt.Axis(labelLimit=90)),
        tooltip=[
            "class:N",
            "taken for:N",
            "images:Q",
            alt.Tooltip("share:Q", format=".1%", title="share of the class"),
        ],
    )
    share = alt.Color(
        "share:Q",
        scale=alt.Scale(domain=[0, 1]),
        legend=alt.Legend(format="~%", title="share of the class", titleFontWeight="normal", values=[0, 0.5, 1]),
    )
    layers = [base.mark_rect().encode(share)]
    if len(part.names) <= COUNTED:
        number = base.encode(text="images:Q").transform_filter(alt.datum.images > 0)
        layers += [
            number.transform_filter(alt.datum.share > STRONG).mark_text(style=ON_STRONG),
            number.transform_filter(alt.datum.share <= STRONG).mark_text(style=ON_PALE),
        ]
    right, total = int(whole.counts.trace()), int(whole.counts.sum())
    text = f"A row for each class, a column for what it is taken for. {right:,} of {total:,} images are on the diagonal"
    text += (
        ", recognised."
        if part is whole
        else (
            f", recognised, in all {len(whole.names):,} classes; the matrix has the {MATRIX} classes with the most mistakes."
        )
    )
    chart = alt.layer(*layers).properties(height=max(18, 30 - len(part.names) // 2) * len(part.names))
    return Figure(name, "Confusion matrix", text, chart, rows)


def classes_figure(name: str, whole: Confusion) -> Figure:
    """The accuracy of each class, the worst first; of many classes, the worst of them."""
    rows = whole.classes()
    shown = [row for row in rows if row["images"]][:BARS]
    chart = (
        alt.Chart(alt.Data(values=shown))
        .mark_bar()
        .encode(
            alt.Y("class:N", sort=None, title=None, axis=alt.Axis(labelLimit=110)),
            alt.X(
                "accuracy:Q",
                title="share of the class's images",
                axis=alt.Axis(format="~%", tickCount=5),
                scale=alt.Scale(domain=[0, 1]),
            ),
            tooltip=["class:N", "images:Q", "correct:Q", alt.Tooltip("accuracy:Q", format=".1%")],
        )
        .properties(height=20 * len(shown))
    )
    text = f"How many of a class's images are recognised, worst class first: {shown[0]['class']}, {shown[0]['accuracy']:.1%}."
    if len(rows) > len(shown):
        text += f" {len(shown)} of {len(rows):,} classes."
    return Figure(name, "Accuracy by class", text, chart, rows)
