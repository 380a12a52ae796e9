"""`alexnet completion bash`: what lets a shell complete the programs of `alexnet`, their flags, and files. Needs shtab."""

import argparse
from importlib import import_module
from types import ModuleType

from alexnet_dist import cli
from alexnet_dist.errors import UserError
from alexnet_dist.programs import PROGRAMS
from alexnet_dist.training.recipes import recipe_names

SHELLS = ("bash", "zsh")
EXAMPLES = """For every shell that begins from now on:
  echo 'eval "$(alexnet completion bash)"' >> ~/.bashrc
  echo 'eval "$(alexnet completion zsh)"' >> ~/.zshrc     behind the line with compinit
Anew after an update: nothing; the flags are those of the alexnet that is installed."""
# What flags and arguments with these names for their values are completed by; those with choices by them.
FILES = {"FILE", "LIST", "IMAGE", "TOML", "RUN", "IN", "OUT", "PATH", "LIST_OR_FOLDER", "SOURCE"}
FOLDERS = {"DIR"}


def build_parser() -> cli.Parser:
    """The shell."""
    parser = cli.Parser(
        "alexnet-completion", "Print what lets a shell complete alexnet's programs and flags.", EXAMPLES
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    return parser


def everything(shtab: ModuleType) -> argparse.ArgumentParser:
    """One parser with those of all programs below it, whose values shtab knows how to complete."""
    parser = argparse.ArgumentParser("alexnet")
    parser.add_argument("--version", action="store_true", help="print the versions of this program and of what it uses")
    programs = parser.add_subparsers()
    for name, what in PROGRAMS.items():
        programs.add_parser(name, help=what)
        programs.choices[name] = import_module(f"alexnet_dist.{name}").build_parser()
        _teach(programs.choices[name], shtab)
    return parser


def _teach(parser: argparse.ArgumentParser, shtab: ModuleType) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _teach(inner, shtab)
        if action.help == argparse.SUPPRESS:  # of alexnet-layout, whose help is short
            action.help = ""
        name = str(action.metavar).split(".")[0]
        if action.dest == "recipe":
            action.choices = recipe_names()
        elif name in FILES | FOLDERS:
            # shtab reads this attribute of actions, which argparse doesn't know.
            vars(action)["complete"] = shtab.DIRECTORY if name in FOLDERS else shtab.FILE


def body(args: argparse.Namespace) -> int:
    """Prints the shell's script. Raises UserError without shtab."""
    try:
        import shtab
    except ImportError:
        raise UserError("completion needs the package shtab: pip install 'alexnet_dist[completion]'") from None
    print(shtab.complete(everything(shtab), args.shell))
    return 0


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
