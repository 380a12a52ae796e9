"""The plot of scaling.py: predicted images a second for each bandwidth and global batch, and the fit of Allreduce."""

from collections.abc import Sequence
from typing import Any

from scaling_model import PAPER_NODES, PAPER_SPEED, Link, Prediction, Sample
from scaling_tables import Predictions, Setting

COLOURS = {"allreduce": "tab:blue", "sharded": "tab:orange", "hybrid": "tab:green"}
PAPER_BATCH = 32768
WIDE, HIGH = 3.6, 3.2  # inches of a panel


def plot(path: str, samples: Sequence[Sample], link: Link | None, predictions: Predictions) -> None:
    """A row of panels for each global batch, a column for each bandwidth, and a column for the legend and the fit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bandwidths, batches = (
        list(dict.fromkeys(values)) for values in zip(*((s.gigabits, s.batch) for s in predictions), strict=True)
    )
    cores = list(dict.fromkeys(setting.cores for setting in predictions))
    rows, columns = max(2, len(batches)), len(bandwidths) + 1
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(WIDE * columns, HIGH * rows), layout="constrained", squeeze=False
    )
    for row, batch in enumerate(batches):
        for column, gigabits in enumerate(bandwidths):
            for count in cores:
                steps = predictions[Setting(count, gigabits, batch)]
                speeds(axes[row, column], steps, "-" if count == cores[0] else "--")
            label_panel(axes[row, column], gigabits, batch, first=column == 0)
    for row in range(len(batches), rows):
        for column in range(columns - 1):
            axes[row, column].set_axis_off()
    for row in range(2, rows):
        axes[row, -1].set_axis_off()
    legend(axes[0, -1], cores)
    sums(axes[1, -1], samples, link)
    figure.suptitle("AlexNet, predicted from this machine's step: images a second by number of nodes")
    figure.savefig(path, dpi=110)
    print(f"\nThe plot is in {path}")


def speeds(axes: Any, steps: Sequence[Prediction], line: str) -> None:
    """A kind of node's lines: one for each strategy, from nothing hidden to all hidden."""
    for name, colour in COLOURS.items():
        own = [step for step in steps if step.strategy == name]
        nodes = [step.nodes for step in own]
        none, full = ([step.speed(hidden) for step in own] for hidden in (False, True))
        axes.fill_between(nodes, none, full, color=colour, alpha=0.2, linewidth=0)
        axes.plot(nodes, none, line, color=colour, linewidth=1.5)


def label_panel(axes: Any, gigabits: float, batch: int, first: bool) -> None:
    """Scales and labels of one panel, and the paper's result where its batch is predicted."""
    if batch == PAPER_BATCH:
        axes.plot([PAPER_NODES], [PAPER_SPEED], "k*", markersize=9)
    axes.set(yscale="log", title=f"{gigabits:g} Gbit/s, global batch {batch}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.set_xlabel("nodes")
    if first:
        axes.set_ylabel("images/s")


def legend(axes: Any, cores: Sequence[int]) -> None:
    """What colours and lines mean, in a panel of its own."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=colour, label=name) for name, colour in COLOURS.items()]
    for count in cores:
        style = "-" if count == cores[0] else "--"
        origin = "measured" if count == cores[0] else "this speed a core assumed"
        handles.append(Line2D([], [], color="grey", linestyle=style, label=f"{count} cores a node ({origin})"))
    handles.append(Patch(color="grey", alpha=0.2, label="line: nothing of the wire hidden;\nband: up to all hidden"))
    handles.append(Line2D([], [], color="black", marker="*", linestyle="", label="arXiv 1709.05011, 1024 CPUs"))
    axes.set_axis_off()
    axes.legend(handles=handles, loc="center", fontsize="small", frameon=False)


def sums(axes: Any, samples: Sequence[Sample], link: Link | None) -> None:
    """Allreduce on this machine: measured, and the fit."""
    if not samples:
        axes.set_axis_off()
        return
    for index, ranks in enumerate(sorted({sample.ranks for sample in samples})):
        mine = [sample for sample in samples if sample.ranks == ranks]
        sizes = [sample.size for sample in mine]
        axes.plot(sizes, [1e3 * sample.seconds for sample in mine], "o", color=f"C{index + 3}", label=f"{ranks} ranks")
        if link:
            axes.plot(sizes, [1e3 * link.allreduce(size, ranks) for size in sizes], color=f"C{index + 3}")
    axes.set(xscale="log", yscale="log", xlabel="bytes", ylabel="ms", title="Allreduce here, and its fit")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
