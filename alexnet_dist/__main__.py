"""alexnet PROGRAM ...: all programs by one command; `python -m alexnet_dist PROGRAM ...` is the same."""

import argparse
import sys
from importlib import import_module

from alexnet_dist import cli
from alexnet_dist.errors import BAD_INPUT, UserError
from alexnet_dist.programs import PROGRAMS

EXAMPLES = """examples:
  mpirun -n 2 alexnet train --data flowers --output-dir runs/flowers
  alexnet inference --load runs/flowers --input photo.jpg

alexnet PROGRAM --help explains the flags of a program. Each is also a command of its own (alexnet-train) and a module
(python -m alexnet_dist.train)."""


def build_parser() -> cli.Parser:
    """What `alexnet` itself takes; all behind a program's name is that program's."""
    table = "\n".join(f"  {name:11} {what}" for name, what in PROGRAMS.items())
    epilog = f"programs:\n{table}\n\n{EXAMPLES}"
    parser = cli.Parser("alexnet", "Train AlexNet with NumPy and MPI, and use what was trained.", epilog)
    parser.add_argument("program", nargs="?", metavar="PROGRAM", help="one of those below, with its flags behind it")
    return parser


def body(args: argparse.Namespace) -> int:
    """There is no such program. Raises UserError; without a name, prints the help."""
    if args.program is None:
        build_parser().print_help(sys.stderr)
        return BAD_INPUT
    raise UserError(f"there is no program {args.program}{cli.did_you_mean(args.program, PROGRAMS)} (see --help)")


def main(argv: list[str] | None = None) -> int:
    """The program; returns the exit code of the one that it starts."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in PROGRAMS:
        code: int = import_module(f"alexnet_dist.{argv[0]}").main(argv[1:])
        return code
    # Only the first word: what follows a name that is misspelt are another program's flags.
    return cli.run(build_parser(), argv[:1], body)


if __name__ == "__main__":
    raise SystemExit(main())
