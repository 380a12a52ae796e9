"""alexnet-supervise, with a script in the place of mpirun: when it starts the next attempt, and what it clears up."""

import errno
import mmap
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from end_to_end.launcher import environment

from alexnet_dist import supervise as supervise_module
from alexnet_dist.errors import StorageError
from alexnet_dist.runs.folder import RunFolder
from alexnet_dist.runs.lock import PATIENCE
from alexnet_dist.supervise import Supervisor
from alexnet_dist.supervision import leftovers
from alexnet_dist.supervision.command import Attempt, Command
from alexnet_dist.support.processes import start_of
from alexnet_dist.support.signals import ECHO

FAST = ["--pause", "0.05"]
# Each attempt adds a line to `attempts` and then does what the line of that number in `plan` says.
PROGRAM = "import sys; from alexnet_dist import supervise; supervise.ECHO = float(sys.argv.pop(1)); sys.exit(supervise.main())"
SCRIPT = 'echo "$*" >>attempts; eval "$(sed -n "$(wc -l <attempts)p" plan)"'

# Behind traps in a plan. Under another name: shells alone would count as an attempt whose ranks are gone.
LASTS = "echo rank >/proc/$$/comm; touch ready; for _ in {1..3000}; do sleep 0.02; done"  # and not for ever
ENDURES = f'trap "echo >>asked" USR1; trap "touch ended; exit 130" TERM; {LASTS}'


def supervise(folder: Path, *plan: str, flags: list[str] = FAST, echo: float = ECHO) -> subprocess.Popen:
    """The supervisor of a run in `folder`/run, for which two signals within `echo` seconds may be one request."""
    (folder / "run").mkdir(exist_ok=True)
    (folder / "plan").write_text("".join(f"{line}\n" for line in plan))
    command = ["bash", "-c", SCRIPT, "alexnet_dist.train", "--output-dir", "run"]
    words = [sys.executable, "-c", PROGRAM, str(echo), *flags, "--", *command]
    return subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    text = process.communicate(timeout=90)[1]
    return process.returncode, text


def test_what_local_sh_refuses_is_not_tried_again(tmp_path):
    script = Path(__file__).parents[2] / "launch" / "supervise.sh"
    command = [script, "two", "--output-dir", "run"]
    code, text = ended(subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True))
    assert code == 2, text
    assert "local.sh: how many ranks?" in text
    assert "attempt 1 ended with exit code 2: bad input" in text


def attempts(folder: Path) -> int:
    return len((folder / "attempts").read_text().splitlines())


def state(step: int) -> str:
    return f"touch run/checkpoint-{step:08}.safetensors"


def test_it_starts_again_until_the_run_is_complete(tmp_path):
    code, text = ended(
        supervise(tmp_path, "kill -9 $$", f"{state(7)}; exit 143", "exit 0", "touch run/complete; exit 9")
    )
    assert code == 0, text
    said = [line for line in text.splitlines() if "shared memory" not in line]  # of others' runs
    assert said == [
        "alexnet-supervise: attempt 1 was ended by SIGKILL; the next goes on from the beginning in 0 s",
        "alexnet-supervise: attempt 2 was ended by SIGTERM; the next goes on from checkpoint-00000007.safetensors in 0 s",
        "alexnet-supervise: attempt 3 ended without completing the run; the next goes on from "
        "checkpoint-00000007.safetensors in 0 s",
        "alexnet-supervise: the run is complete after 4 attempts",
    ]
    words = (tmp_path / "attempts").read_text().splitlines()
    assert words == ["--output-dir run --resume auto"] * 4
    log = (tmp_path / "run" / "supervise.log").read_text().splitlines()
    said = [line.removeprefix("alexnet-supervise: ") for line in text.splitlines()]
    assert [line.split(" ", 2)[2] for line in log] == said


@pytest.mark.parametrize(("code", "why"), [(2, "bad input"), (65, "diverged"), (71, "replicas have parted")])
def test_what_another_attempt_does_not_mend_ends_it(tmp_path, code, why):
    found, text = ended(supervise(tmp_path, f"exit {code}"))
    assert (found, attempts(tmp_path)) == (code, 1)
    assert why in text


def test_a_folder_that_is_still_held_is_tried_again(tmp_path):
    flags = [*FAST, "--restarts", "100000"]  # so that a pause is short
    code, _ = ended(supervise(tmp_path, "touch run/.lock; exit 2", "rm run/.lock; touch run/complete", flags=flags))
    assert (code, attempts(tmp_path)) == (0, 2)


def test_the_attempts_last_until_a_lost_host_no_longer_holds_the_folder(tmp_path):
    process = supervise(tmp_path, "touch run/.lock; exit 2", flags=[*FAST, "--restarts", "5"])
    first = next(line for line in process.stderr if "shared memory" not in line)  # of others' runs
    assert first.endswith("in 75 s\n")  # the first of four such pauses
    assert PATIENCE <= 4 * 75
    process.terminate()
    assert ended(process)[0] == 75


def test_it_gives_up_without_a_new_state(tmp_path):
    plan = ["exit 1", "exit 1", f"{state(1)}; exit 1", "exit 1", "exit 1", "exit 1"]
    code, text = ended(supervise(tmp_path, *plan, flags=[*FAST, "--restarts", "2"]))
    assert (code, attempts(tmp_path)) == (1, 5), text  # after the state of the third, two more
    assert "given up after 3 attempts without a new state (--restarts 2)" in text


def test_an_old_mark_of_a_finished_run_does_not_count(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "complete").touch()
    code, text = ended(supervise(tmp_path, "exit 1", flags=[*FAST, "--restarts", "0"]))
    assert code == 1, text


def supervisor(folder: Path, *plan: str, **options: int) -> Supervisor:
    """One in this process, of a run in `folder`/run; the working folder must be `folder`."""
    (folder / "plan").write_text("".join(f"{line}\n" for line in plan))
    command = Command.of(["bash", "-c", SCRIPT, "alexnet_dist.train", "--output-dir", "run"])
    return Supervisor(command, **{"restarts": 2, "pause": 0, "min_ranks": 1} | options)


@pytest.mark.parametrize("outage", [2, 1000])
def test_storage_that_fails_while_states_are_looked_for_is_asked_again(tmp_path, monkeypatch, capsys, outage):
    monkeypatch.chdir(tmp_path)
    failures = iter([False, *[True] * outage])
    states = RunFolder.states

    def fails_for_a_while(folder):
        if next(failures, False):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return states(folder)

    monkeypatch.setattr(RunFolder, "states", fails_for_a_while)
    (tmp_path / "run").mkdir()
    run = supervisor(tmp_path, "exit 1", "touch run/complete")
    if outage == 2:
        assert run.run() == 0
        assert attempts(tmp_path) == 2
    else:
        with pytest.raises(StorageError, match=r"run can't be read: Stale file handle, 3 times \(--restarts 2\)"):
            run.run()
    lines = [line for line in capsys.readouterr().err.splitlines() if "Stale" in line]
    assert lines == ["alexnet-supervise: run can't be read: Stale file handle; tried again in 0 s"] * 2


NOT_ANEW = "run held checkpoint-00000007.safetensors, and now neither it nor another state"


def test_a_folder_that_vanishes_is_not_begun_anew(tmp_path):
    process = supervise(tmp_path, f"{state(7)}; exit 1", "mv run elsewhere; (setsid sleep 1000 &); exit 1")
    code, text = ended(process)
    assert (code, attempts(tmp_path)) == (74, 2), text
    assert f"error: {NOT_ANEW}" in text
    assert not (tmp_path / "run").exists()  # not made anew for the log, though there was something to say


def test_a_folder_that_vanishes_in_the_pause_is_not_begun_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    run = supervisor(tmp_path, f"{state(7)}; exit 1")
    monkeypatch.setattr(run, "_wait", lambda seconds: (tmp_path / "run").rename(tmp_path / "elsewhere"))
    with pytest.raises(StorageError, match=NOT_ANEW) as caught:
        run.run()
    assert (caught.value.exit_code, attempts(tmp_path)) == (74, 1)
    assert "goes on from checkpoint-00000007" in (tmp_path / "elsewhere" / "supervise.log").read_text()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_ends_it(tmp_path, number):
    process = supervise(tmp_path, f'trap "sleep 0.2; exit 75" USR1; {LASTS}')
    until((tmp_path / "ready").exists)
    process.send_signal(number)
    code, text = ended(process)
    assert (code, attempts(tmp_path)) == (75, 1), text
    assert "a signal has asked to stop" in text


@pytest.mark.parametrize(("number", "echo"), [(signal.SIGTERM, 0.0), (signal.SIGINT, 1000.0)])
def test_a_second_signal_ends_at_once(tmp_path, number, echo):
    process = supervise(tmp_path, ENDURES, echo=echo)
    until((tmp_path / "ready").exists)
    process.send_signal(number)
    until(lambda: asked(tmp_path) > 2)  # again and again; the first signal alone ends nothing
    assert not (tmp_path / "ended").exists()
    process.send_signal(number)
    assert ended(process)[0] == 75
    assert (tmp_path / "ended").exists()


def test_what_a_batch_system_s_script_hands_on_is_no_second_signal(tmp_path):
    process = supervise(tmp_path, ENDURES, echo=1000.0)
    until((tmp_path / "ready").exists)
    process.terminate()
    until(lambda: asked(tmp_path) > 0)
    process.terminate()
    before = asked(tmp_path)
    until(lambda: asked(tmp_path) > before + 2)  # it would have been ended with the first of these
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 75


def asked(folder: Path) -> int:
    """How often the attempt has been asked to stop."""
    return (folder / "asked").read_text().count("\n") if (folder / "asked").exists() else 0


def test_nothing_trains_on_without_its_supervisor(tmp_path):
    process = supervise(tmp_path, f'trap "touch told; exit 75" USR1; {LASTS}')
    until((tmp_path / "ready").exists)
    process.kill()
    process.communicate()
    until((tmp_path / "told").exists)


def test_it_kills_what_an_attempt_has_left(tmp_path):
    orphan = "(setsid sleep 1000 & echo $! >orphan)"
    code, text = ended(supervise(tmp_path, f"{orphan}; exit 1", "touch run/complete"))
    assert code == 0
    assert "killed what was left of attempt 1: 1 of its processes" in text
    assert start_of(int((tmp_path / "orphan").read_text())) == ""


def test_it_removes_segments_that_nobody_uses(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", tmp_path)
    for name in ("mpich_shm_starting", "mpich_shm_forgotten", "mpich_shm_open", "mpich_shm_old_used", "osc_old"):
        segment(tmp_path / name, age=0 if name == "mpich_shm_starting" else 100)
    before = leftovers.segments()
    for name in ("mpich_shm_used", "mpich_shm_left", "somebody_elses"):
        segment(tmp_path / name)
    with ExitStack() as stack:
        stack.enter_context(open(tmp_path / "mpich_shm_open", "rb"))
        for name in ("mpich_shm_used", "mpich_shm_old_used"):
            with open(tmp_path / name, "r+b") as file:
                stack.enter_context(mmap.mmap(file.fileno(), 10))
        assert leftovers.remove_segments(before) == 20
    assert {path.name for path in tmp_path.iterdir()} == {
        *("mpich_shm_starting", "mpich_shm_open", "mpich_shm_old_used", "osc_old"),
        *("mpich_shm_used", "somebody_elses"),
    }


def segment(path: Path, age: float = 0) -> None:
    path.write_bytes(b"x" * 10)
    os.utime(path, (time.time() - age,) * 2)


def test_what_earlier_runs_have_left_is_gone_before_the_first_attempt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", tmp_path)
    segment(tmp_path / "mpich_shm_forgotten", age=100)
    (tmp_path / "run").mkdir()
    assert supervisor(tmp_path, "test ! -e mpich_shm_forgotten && touch run/complete", restarts=0).run() == 0


def test_too_few_ranks_are_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Command, "attempt", lambda self, hostfile, is_there: Attempt(["false"], 1, ["two"]))
    command = Command.of(["mpirun", "python", "-m", "alexnet_dist.train", "--output-dir", "run"])
    assert Supervisor(command, restarts=1, pause=0, min_ranks=2).run() == 1
    text = capsys.readouterr().err
    assert text.count("two can't be reached; 1 rank is left, less than --min-ranks 2") == 2


def test_a_host_that_never_answered_is_not_judged(monkeypatch):
    there = {"one", "two"}
    monkeypatch.setattr(supervise_module, "answers", lambda host: host in there)
    command = Command.of(["mpirun", "python", "-m", "alexnet_dist.train"])
    supervisor = Supervisor(command, restarts=1, pause=0, min_ranks=1)
    assert [supervisor._is_there(host) for host in ("one", "two", "behind a firewall")] == [True, True, True]
    there.remove("two")
    assert [supervisor._is_there(host) for host in ("one", "two", "behind a firewall")] == [True, False, True]


def test_a_program_that_is_missing(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "alexnet_dist.supervise", "--", "no-such-mpirun", "alexnet_dist.train"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": str(tmp_path)},
    )
    assert result.returncode == 2
    assert "no-such-mpirun can't be started" in result.stderr


def until(condition) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
