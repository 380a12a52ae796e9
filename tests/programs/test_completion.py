"""alexnet completion: in a real shell, at a terminal, the TAB key completes programs, flags, their values and files."""

import os
import pty
import select
import shutil
import signal
import subprocess
import time

import pytest
from end_to_end.launcher import BIN, alone

from alexnet_dist import completion
from alexnet_dist.programs import PROGRAMS

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
BEFORE = {"bash": "", "zsh": "autoload -U compinit; compinit -u -D; "}
CASES = [
    ("alexnet conv", "alexnet convert "),
    ("alexnet train --output-d", "--output-dir"),
    ("alexnet layout --global-b", "--global-batch"),
    ("alexnet prepare unp", "alexnet prepare unpack "),
    ("alexnet train --recipe fashion", "--recipe fashion-mnist"),
    ("alexnet train --opt ada", "--opt adamw"),
    ("alexnet evaluate --data my-im", "--data my-images.list"),
    ("alexnet train --output-dir ru", "--output-dir runs/"),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (folder / shell).write_text(alone([BIN / "alexnet", "completion", shell], folder).ok().out)
    (folder / "my-images.list").write_text("")
    (folder / "runs").mkdir()
    return folder


@pytest.fixture(params=SHELLS)
def terminal(request, scripts):
    """A shell at a pseudo terminal that has read the script: type(text) gives what appears."""
    if shutil.which(request.param) is None:
        pytest.skip(
            f"only the shell itself shows what it completes, and {request.param} is missing "
            f"(Debian: apt-get install {request.param})"
        )
    parent, child = pty.openpty()
    env = {**os.environ, "PS1": "> ", "TERM": "dumb", "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(scripts)}
    shell = subprocess.Popen(
        SHELLS[request.param], cwd=scripts, env=env, stdin=child, stdout=child, stderr=child, start_new_session=True
    )
    os.close(child)

    def type_(text, until):
        os.write(parent, text.encode())
        seen, end = "", time.monotonic() + 60
        while until not in seen and time.monotonic() < end:
            if select.select([parent], [], [], 0.1)[0]:
                seen += os.read(parent, 65536).decode(errors="replace")
        return seen

    try:
        type_(f"{BEFORE[request.param]}eval \"$(cat {request.param})\"; echo re''ady\n", "ready")
        yield type_
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        os.close(parent)


def test_tab_completes(terminal):
    for typed, whole in CASES:
        # The shell's answer is the rest of the word.
        seen = terminal(f"{typed}\t", whole)
        assert whole in seen.replace("\r", "").replace("\x07", ""), (typed, seen)
        terminal("\x15echo do''ne\n", "done")  # \x15 empties the line: the next case begins at a new prompt


def test_every_program_is_completed(scripts):
    text = (scripts / "bash").read_text()
    for name in PROGRAMS:
        assert f"_shtab_alexnet_{name}_option_strings" in text


def test_without_shtab_the_command_that_installs_it_is_named(tmp_path):
    (tmp_path / "shtab.py").write_text("raise ImportError('none')\n")
    path = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    job = alone([BIN / "alexnet", "completion", "bash"], tmp_path, path)
    assert (job.code, job.out) == (2, "")
    assert job.err == (
        "alexnet completion: error: completion needs the package shtab: pip install 'alexnet_dist[completion]'\n"
    )


def test_another_shell_is_refused(capsys):
    assert completion.main(["fish"]) == 2
    assert "bash" in capsys.readouterr().err
