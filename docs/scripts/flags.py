"""A hook of mkdocs (see .mkdocs.yml): the page of the programs gets their flags from the parsers, when the site is built.

In a page, the line `<!-- every program -->` becomes a part for each command that the package installs.
"""

import argparse
import importlib
import tomllib
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

MARK = "<!-- every program -->"
ROOT = Path(__file__).parents[2]


class Program(NamedTuple):
    """A command: what it is for, and its parser."""

    purpose: str
    parser: argparse.ArgumentParser


def programs() -> dict[str, Program]:
    """The commands that the package installs, by name; of those that have a parser."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    found = {}
    for name, target in scripts.items():
        module = importlib.import_module(target.partition(":")[0])
        if hasattr(module, "build_parser"):
            found[name] = Program(str(module.__doc__), module.build_parser())
    return found


def options(parser: argparse.ArgumentParser) -> set[str]:
    """The flags of a parser and of its subcommands that --help has."""
    found = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*map(options, action.choices.values()))
        elif action.help != argparse.SUPPRESS:
            found |= set(action.option_strings) - {"-h", "--help"}
    return found


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""
    if MARK not in markdown:
        return markdown
    parts = []
    for name, (purpose, parser) in programs().items():
        other = "" if parser.prog == name else f"It takes the flags of `{parser.prog}`.\n"
        parts.append(f"## {name}\n\n{purpose}\n{other or described(parser)}")
    return markdown.replace(MARK, "\n".join(parts))


def described(parser: argparse.ArgumentParser) -> str:
    """A parser's flags, a table for each group; then its subcommands, likewise; then the end of its --help."""
    tables = (_table(parser, group) for group in parser._action_groups)
    parts = [table for table in tables if table]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            parts += [
                f"### {child.prog}\n\n{escape(helps.get(name, ''))}\n\n{described(child)}"
                for name, child in action.choices.items()
            ]
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog.replace(f'{ROOT}/', '')}\n```\n")
    return "\n".join(parts)


def _table(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> str:
    """The flags of a group; empty if there is nothing to say."""
    rows = []
    for action in group._group_actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)) or action.help == argparse.SUPPRESS:
            continue
        formatter = parser._get_formatter()
        flag, text = formatter._format_action_invocation(action), formatter._expand_help(action) if action.help else ""
        rows.append(f"<tr><td><code>{escape(flag)}</code></td><td>{escape(text)}</td></tr>\n")
    title = escape(str(group.title))
    head = f'<thead><tr><th scope="col">{title}</th><th scope="col">What it does</th></tr></thead>'
    return f"<table>\n{head}\n<tbody>\n{''.join(rows)}</tbody>\n</table>\n" if rows else ""
