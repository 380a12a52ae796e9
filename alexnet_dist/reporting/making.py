"""Makes the page and the files of a report. The packages for charts are imported when one is made."""

from collections.abc import Sequence
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.support.files import check_writable

PAGE = "report.html"
NEEDS = {"altair", "vl_convert", "jinja2"}


def write_report(runs: Sequence[Path], output: Path, figures: Path | None = None) -> list[Path]:
    """Reads the runs in these folders and writes the page; and with a folder for `figures`, each as PNG and its numbers as
    CSV. Returns what was written, the page first.

    Raises UserError, also where the packages are missing.
    """
    try:
        from alexnet_dist.reporting.figures import write_figures
        from alexnet_dist.reporting.page import read_report
    except ModuleNotFoundError as error:
        if error.name not in NEEDS:
            raise
        raise UserError(
            f"a report needs the package {error.name}, which is not installed: pip install 'alexnet_dist[report]'"
        ) from error
    check_writable(output)
    report = read_report(runs)
    report.write(output)
    return [output, *(write_figures(report.all_figures(), figures) if figures else [])]
