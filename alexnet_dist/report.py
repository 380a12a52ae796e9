"""python -m alexnet_dist.report: a page on one run, or on several to compare: curves, classes, pictures, configuration."""

import argparse
from pathlib import Path

from alexnet_dist import cli
from alexnet_dist.reporting.making import PAGE, write_report

EXAMPLES = """\
The page is one HTML file, which needs no network. It is written after a run by alexnet-train, too.

examples:
  alexnet-report runs/alexnet
  alexnet-report runs/alexnet runs/adamw --output comparison.html --figures figures
"""


def build_parser() -> cli.Parser:
    """The flags of alexnet-report."""
    parser = cli.Parser("alexnet-report", "Show what has come of a training run, or compare several.", EXAMPLES)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run (its --output-dir)")
    add("--output", type=Path, metavar="FILE", help=f"the page (default: {PAGE} in RUN; of several runs, here)")
    add("--figures", type=Path, metavar="FOLDER", help="also write each figure as PNG, and its numbers as CSV")
    return parser


def body(args: argparse.Namespace) -> int:
    """Writes the page and says where it is."""
    output = args.output or (args.runs[0] / PAGE if len(args.runs) == 1 else Path(PAGE))
    written = write_report(args.runs, output, args.figures)
    print(f"report: {written[0]}")
    if args.figures:
        print(f"figures: {len(written) - 1} files in {args.figures}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
