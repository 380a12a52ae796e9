""".ci/run: the checks run whatever comes of installing what some tests want. Nothing is: programs are fakes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INSTALLS = os.geteuid() == 0 and not Path("/run/systemd/system").exists()
UPDATED, INSTALLED = "apt-get update", "apt-get install"
PACKAGES = {
    "ip": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "chromedriver": "chromium-driver",
    "zsh": "zsh",
}
ALL_INSTALLED = " ".join([INSTALLED, *PACKAGES.values()])
WANTED = dict.fromkeys(PACKAGES, "")


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """calls(name="script", ...) runs .ci/run where there are these programs alone: (exit code, which have run)."""
    project, tools, log = tmp_path / "the project", tmp_path / "tools", tmp_path / "log"
    for folder in (project / "launch", project / ".ci", tools):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", project / ".ci")
    for tool in ("bash", "env", "dirname"):
        (tools / tool).symlink_to(str(shutil.which(tool)))

    def program(path, script):
        path.write_text(f"#!/usr/bin/env bash\n{script}\n")
        path.chmod(0o755)

    def calls(code=0, **programs):
        program(project / "launch" / "test.sh", f"echo checks >>'{log}'; exit {code}")
        program(tools / "timeout", 'shift; exec "$@"')
        program(tools / "unshare", 'while [[ $1 == --* ]]; do shift; done; [[ $1 == true ]] || exec "$@"')
        packages = "${all##* --no-install-recommends }"
        cases = f'*" update") echo "{UPDATED}";; *" install "*) echo "{INSTALLED} {packages}";;'
        asked = f'all="$*"; case $all in {cases} esac >>"{log}"'
        for name, script in {"apt_get": "", **programs}.items():
            name = name.replace("_", "-")
            program(tools / name, f"{asked}\n{script}" if name == "apt-get" else script)
        result = subprocess.run([project / ".ci" / "run"], env={"PATH": str(tools)}, cwd="/", timeout=30)
        return result.returncode, log.read_text().splitlines()

    return calls


def test_what_is_there_is_not_installed(calls):
    assert calls(**WANTED) == (0, ["checks"])


@pytest.mark.parametrize("lacking", WANTED)
def test_what_lacks_is_installed_where_that_is_possible(calls, lacking):
    there = {name: script for name, script in WANTED.items() if name != lacking}
    assert calls(**there) == (0, [*([UPDATED, f"{INSTALLED} {PACKAGES[lacking]}"] if INSTALLS else []), "checks"])


@pytest.mark.parametrize("failing", ["update", "install"])
def test_checks_run_without_them_too(calls, failing):
    tried = {"update": [UPDATED], "install": [UPDATED, ALL_INSTALLED]}[failing] if INSTALLS else []
    assert calls(apt_get=f'[[ "$*" != *" {failing}"* ]]') == (0, [*tried, "checks"])


def test_nothing_is_installed_where_namespaces_are_forbidden(calls):
    assert calls(unshare="exit 1") == (0, ["checks"])


def test_the_checks_exit_code_is_handed_on(calls):
    assert calls(code=3)[0] == 3
