"""The pages of docs/ as their readers use them: files are saved, commands and programs are run, in the page's order.

A block of code in `bash` has commands, one a line, or a loop whose lines are indented. One with a title, such as
`python title="draw.py"`, is a file of that name; one in `python` without a title is a program. Others are only read.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# What is put after a training command, so that a page takes seconds.
SMALL = "--width 0.0625 --image-size 64 --global-batch 4 --threads 1 --workers 1"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


class CodeBlock(NamedTuple):
    """A block of code of a page; `title` is "" where it is no file."""

    language: str
    title: str
    text: str


def blocks(text: str) -> list[CodeBlock]:
    """The blocks of code of a page, or of a part of it."""
    return [CodeBlock(*match.groups("")) for match in BLOCK.finditer(text)]


def sections(page: str) -> dict[str, str]:
    """A page's parts by their headings of the second level."""
    _, *parts = re.split(r"^## ", (DOCS / page).read_text(encoding="utf-8"), flags=re.M)
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts)}


def commands(text: str) -> list[str]:
    """The commands of a block; a loop is one."""
    return [part.strip() for part in re.split(r"\n(?=\S)(?!done\b)", text) if part.strip()]


def small(command: str, epochs: int | None = None) -> str:
    """The command for a small network, with as many epochs as it says, or `epochs`."""
    command = re.sub(r"python draw\.py$", "python draw.py 10", command)
    more = f"{SMALL} --epochs {epochs}" if epochs else SMALL
    return re.sub(r"(alexnet_dist\.train\b[^;&|\n]*?)(?= *(?:$|[;&|\n]|2>))", rf"\1 {more}", command)


def run(script: str, folder: Path) -> str:
    """What bash prints for a script, with the tests' environment active; fails where a command in it does."""
    settings = shlex.quote(str(ROOT / "launch" / "common.sh"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", f"source {settings}; {script}"],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, f"$ {script}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def follow(text: str, folder: Path, epochs: int | None = None) -> list[str]:
    """Does what the blocks say, in a folder; what each command and program has printed."""
    printed = []
    for number, block in enumerate(blocks(text)):
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            printed += [run(small(command, epochs), folder) for command in commands(block.text)]
        elif block.language == "python":
            program = folder / f".block-{number}.py"
            program.write_text(block.text, encoding="utf-8")
            printed.append(run(f"python {program.name}", folder))
    return printed
