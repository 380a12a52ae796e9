"""The launch scripts: what they say where a machine lacks something, and what they start. Fakes stand in for programs."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_dist.support.threads import available_cores

ROOT = Path(__file__).parent.parent
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / "launch" / "slurm.sbatch", ROOT / ".ci" / "run"]
SOURCED = ("common.sh", "job.sh")
WAITS = "echo ready; for _ in {1..3000}; do sleep 0.02; done; exit 99"  # a minute at least, and not for ever
MPIRUN_SAYS = {"mpich": "HYDRA build details:", "openmpi": "mpirun (Open MPI) 5.0.11"}

Fake = Callable[[str, str], Path]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in a path with spaces, without an environment."""
    copy = tmp_path / "a folder" / "the project"
    shutil.copytree(ROOT / "launch", copy / "launch")
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """fake("nproc", "echo 8") puts a program of that name first on PATH."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in ("ALEXNET_VENV", "ALEXNET_MPI", "ALEXNET_DEMO", "PYTHON"):
        monkeypatch.delenv(name, raising=False)

    def make(name: str, script: str) -> Path:
        program = folder / name
        program.write_text(f"#!/usr/bin/env bash\n{script}\n")
        program.chmod(0o755)
        return program

    return make


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    # In a folder that isn't the project's: every script must find the project by itself.
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_scripts_are_well_formed(script: Path) -> None:
    assert run("bash", "-n", script).returncode == 0
    assert os.access(script, os.X_OK) != (script.name in SOURCED)


@pytest.mark.parametrize("name", ["demo.sh", "test.sh", "local.sh", "supervise.sh"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_comes_before_anything_is_done(project: Path, name: str, flag: str) -> None:
    result = run(project / "launch" / name, flag)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"launch/{name}" in result.stdout
    assert len(result.stdout.splitlines()) > 1
    assert not any(line.startswith(("#", "set ", "source")) for line in result.stdout.splitlines())
    assert not (project / ".venv").exists()


# Setting up


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('[[ "$*" != *ensurepip* ]] || exit 1; exec REAL "$@"', "apt-get install python3-venv"),
        ('[[ "$*" != "-m venv"* ]] || exit 1; exec REAL "$@"', "could not make the virtual environment"),
        ('[[ "$*" == *print* ]] && echo 3.9', "is Python 3.9, but 3.11 or later is needed"),
    ],
    ids=["no ensurepip", "venv fails", "too old"],
)
@pytest.mark.parametrize("name", ["demo.sh", "test.sh"])
def test_an_unfit_python_is_named(project: Path, fake: Fake, name: str, script: str, message: str) -> None:
    fake("python3", script.replace("REAL", sys.executable))
    result = run(project / "launch" / name)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    assert not (project / ".venv").exists()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PYTHON", "no-such-python", "there is no no-such-python"),
        ("ALEXNET_MPI", "lam", "ALEXNET_MPI is 'lam', but must be mpich, openmpi or system"),
    ],
)
def test_a_wrong_variable_is_named(
    project: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    result = run(project / "launch" / "demo.sh")
    assert result.returncode == 2
    assert message in result.stderr


def test_the_system_s_mpi_must_exist(project: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = project / "tools"
    tools.mkdir()
    for tool in ("bash", "env", "dirname", "realpath"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("ALEXNET_MPI", "system")
    result = run(project / "launch" / "demo.sh")
    assert result.returncode == 2
    assert "there is no mpirun on PATH" in result.stderr


def test_what_is_installed_is_not_installed_again(
    project: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    # `python3 -m venv -- FOLDER` makes an environment whose python is this fake again, as far as set_up looks at one.
    python = fake(
        "python3",
        f"""case "$*" in
            "-m venv"*) mkdir -p "$4/bin"; ln -s "$0" "$4/bin/python"; echo "VIRTUAL_ENV=$4" >"$4/bin/activate" ;;
            *print*) echo 3.11 ;;
            *" uninstall "*) echo uninstall >>{calls} ;;
            *" install "*) echo "install ${{!#}}" >>{calls} ;;
        esac""",
    )
    assert python.exists()

    def set_up(*extras: str, mpi: str = "mpich") -> list[str]:
        calls.write_text("")
        monkeypatch.setenv("ALEXNET_MPI", mpi)
        script = f'source "{project}/launch/common.sh"; set_up {" ".join(extras)}; echo "$PATH"'
        result = run("bash", "-c", script)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1].startswith(f"{project}/.venv/bin:")
        return calls.read_text().splitlines()

    assert set_up("demo") == ["uninstall", "install .[mpi,demo]"]
    assert set_up("demo") == []
    assert set_up("demo", "test") == ["install .[mpi,demo,test]"]
    assert set_up("demo") == []
    with (project / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert set_up("demo") == ["install .[mpi,demo]"]
    # Both MPIs bring bin/mpirun.
    assert set_up("demo", mpi="openmpi") == ["uninstall", "install .[openmpi,demo]"]
    assert set_up("demo", mpi="mpich") == ["uninstall", "install .[mpi,demo]"]


# local.sh


@pytest.fixture
def machine(fake: Fake) -> Fake:
    """A machine with alexnet_dist, MPICH and eight cores; its mpirun prints its arguments."""
    fake("python", "exit 0")
    fake("nproc", "echo ${OMP_THREAD_LIMIT:-${OMP_NUM_THREADS:-8}}")  # as the real one
    fake("mpirun", mpirun("mpich", 'printf "<%s>" "$@"; echo'))
    return fake


def mpirun(flavour: str, script: str) -> str:
    return f'[[ "$*" != --version ]] || {{ echo "{MPIRUN_SAYS[flavour]}"; exit; }}\n{script}'


def cores_of_eight() -> int:
    """Eight, or what a container's quota leaves of them."""
    return 8 if available_cores() == len(os.sched_getaffinity(0)) else min(8, available_cores())


@pytest.mark.parametrize(("flavour", "binding"), [("mpich", []), ("openmpi", ["--bind-to", "none"])])
def test_local_starts_and_prints_mpirun(project: Path, machine: Fake, flavour: str, binding: list[str]) -> None:
    machine("mpirun", mpirun(flavour, 'printf "<%s>" "$@"; echo'))
    result = run(project / "launch" / "local.sh", "2", "--data", "my images.list")
    threads = str(max(1, cores_of_eight() // 2))
    program = ["python", "-m", "alexnet_dist.train"]
    words = [*binding, "-n", "2", *program, "--threads", threads, "--data", "my images.list"]
    printed, started = result.stdout.splitlines()
    assert started == "".join(f"<{word}>" for word in words)
    assert printed == "+ mpirun " + " ".join(words).replace("my images.list", r"my\ images.list")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "OMP_THREAD_LIMIT"])
def test_local_counts_cores_where_a_cluster_sets_one_thread(
    project: Path, machine: Fake, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    result = run(project / "launch" / "local.sh", "1")
    assert f"<--threads><{cores_of_eight()}>" in result.stdout


def test_local_starts_what_an_elastic_run_needs(project: Path, machine: Fake) -> None:
    machine("mpirun", mpirun("openmpi", 'printf "<%s>" "$@"; echo'))
    result = run(project / "launch" / "local.sh", "2", "--elastic")
    assert "<--with-ft><ulfm><--mca><mpi_ft_detector><true>" in result.stdout
    assert "--with-ft" not in run(project / "launch" / "local.sh", "2").stdout


def test_local_says_that_ranks_share_cores(project: Path, machine: Fake) -> None:
    machine("nproc", "echo 2")
    result = run(project / "launch" / "local.sh", "4")
    assert "<--threads><1>" in result.stdout
    assert "4 ranks take turns on" in result.stderr


def test_local_starts_the_layout_that_was_measured(project: Path, machine: Fake) -> None:
    machine("python", """[[ $1 != -m ]] || echo "mpirun -n 3 python -m alexnet_dist.train --data 'my images.list'" """)
    result = run(project / "launch" / "local.sh", "--layout", "auto", "--data", "my images.list")
    words = ["-n", "3", "python", "-m", "alexnet_dist.train", "--data", "my images.list"]
    assert result.stdout.splitlines()[-1] == "".join(f"<{word}>" for word in words)
    assert (result.returncode, result.stderr) == (0, "")


def test_local_ends_where_no_layout_can_be_measured(project: Path, machine: Fake) -> None:
    machine("python", "[[ $1 != -m ]] || { echo 'alexnet-layout: error: bad flag' >&2; exit 2; }")
    result = run(project / "launch" / "local.sh", "--layout", "auto", "--lr", "x")
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "alexnet-layout: error: bad flag\n")
    assert "--layout is 'wide', but must be auto" in run(project / "launch" / "local.sh", "--layout", "wide").stderr


@pytest.mark.parametrize("ranks", [[], ["0"], ["two"], ["--epochs", "3"]])
def test_local_wants_a_number_of_ranks(project: Path, machine: Fake, ranks: list[str]) -> None:
    result = run(project / "launch" / "local.sh", *ranks)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Usage: launch/local.sh N" in result.stderr


def test_local_says_that_nothing_is_installed(project: Path, machine: Fake) -> None:
    machine("python", "exit 1")
    result = run(project / "launch" / "local.sh", "2")
    assert result.returncode == 1
    assert "not installed" in result.stderr


def test_local_hands_on_the_exit_code(project: Path, machine: Fake) -> None:
    machine("mpirun", mpirun("mpich", "exit 42"))
    assert run(project / "launch" / "local.sh", "2").returncode == 42


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_local_turns_signals_into_sigusr1(project: Path, machine: Fake, number: signal.Signals) -> None:
    # It asks for a checkpoint, which takes a moment, and is repeated meanwhile.
    traps = 'trap "trap : USR1; echo checkpoint; sleep 0.2; exit 75" USR1'
    machine("mpirun", mpirun("openmpi", f"{traps}; {WAITS}"))
    with local(project) as process:
        process.send_signal(number)
        assert process.communicate(timeout=60)[0] == "checkpoint\n"
    assert process.returncode == 75


def test_a_second_signal_ends_local_at_once(project: Path, machine: Fake) -> None:
    traps = 'trap "echo asked" USR1; trap "echo ended; exit 130" INT'
    machine("mpirun", mpirun("mpich", f"{traps}; {WAITS}"))
    with local(project) as process:
        assert process.stdout is not None
        process.terminate()
        assert process.stdout.readline() == "asked\n"
        process.terminate()
        assert [line for line in process.stdout if line != "asked\n"] == ["ended\n"]  # it is asked again and again
    assert process.returncode == 130


@pytest.mark.parametrize(("code", "expected"), [(10, 75), (11, 75), (138, 75), (74, 74), (0, 0)])
def test_ranks_that_a_signal_has_ended_before_they_heeded_it(project, machine, code, expected) -> None:
    machine("mpirun", mpirun("mpich", f'trap "exit {code}" USR1; {WAITS}'))
    with local(project) as process:
        process.terminate()
        assert ("nothing to save" in process.communicate(timeout=60)[1]) == (expected == 75)
    assert process.returncode == expected


def test_local_heeds_a_signal_before_it_starts_mpirun(project: Path, machine: Fake) -> None:
    machine("nproc", "kill -TERM $PPID; echo 2")
    machine("mpirun", mpirun("mpich", "exit 0"))
    result = run(project / "launch" / "local.sh", "2")
    assert result.returncode == 75, result
    assert "local.sh: stopped before training began" in result.stderr


def local(project: Path) -> subprocess.Popen[str]:
    """local.sh, when its mpirun is ready."""
    command = [project / "launch" / "local.sh", "2"]
    process = subprocess.Popen(command, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n":
            break
    return process
