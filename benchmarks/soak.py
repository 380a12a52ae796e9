"""A long run that is watched: whether its memory, its open files and its speed stay what they are.

    python benchmarks/soak.py --minutes 120 --ranks 4 [flags of alexnet-train]

Trains on images that it draws, with a state each minute, and looks every few seconds: at the proportional set size of all
ranks together (shared memory counted once), their open files, what they map of /dev/shm, steps, and processor time. The
first and the last tenth of the time are compared (of the memory, the second tenth: the first fills caches).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np
from common import describe_machine
from PIL import Image

from alexnet_dist.supervision.leftovers import MARK, processes_of
from alexnet_dist.support.processes import read_proc

IMAGES = 256
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """What is seen of all ranks together at one time."""

    seconds: float
    megabytes: float
    files: int
    shared: int  # mapped parts of /dev/shm
    steps: int
    processor_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--every", type=float, default=10, metavar="SECONDS", help="from one look to the next")
    parser.add_argument(
        "--folder", type=Path, help="where to train, and to keep what was seen (default: a temporary one)"
    )
    args, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        samples = watch(args, flags, folder)
        run = folder / "run"
        states = len([line for line in (run / "events.jsonl").open() if '"checkpoint"' in line])
        left = [path.name for path in run.iterdir() if path.name.startswith(".")]
    result = compare(samples)
    print(f"{'':22}{'first':>10}{'last':>10}{'change':>9}")
    for name, (first, last) in result.items():
        print(f"{name:22}{first:10.2f}{last:10.2f}{last / first - 1 if first else 0:+9.2%}")
    print(f"{states} states were written; left behind: {', '.join(left) or 'nothing'}")
    facts = {"minutes": args.minutes, "ranks": args.ranks, "flags": flags, "states": states, "left": left}
    print(json.dumps({"machine": describe_machine("mpi4py"), **facts, "results": result}))


def watch(args: argparse.Namespace, flags: list[str], folder: Path) -> list[Sample]:
    """Trains for so long; what was seen meanwhile, also in samples.jsonl."""
    draw_images(folder)
    mark = uuid.uuid4().hex
    command = ["mpirun", "-n", str(args.ranks), sys.executable, "-m", "alexnet_dist.train", "--threads", "1"]
    command += ["--data", "images.list", "--val", "val.list", "--output-dir", "run", "--sync", "hybrid"]
    command += [
        "--save-minutes",
        "1",
        "--epochs",
        "1000000",
        "--lr",
        "0.0001",
        "--lr-scheduler",
        "step",
        "--lr-step-size",
        "1e9",
    ]
    samples = []
    with open(folder / "out.txt", "w") as out, open(folder / "samples.jsonl", "w") as file:
        process = subprocess.Popen([*command, *flags], cwd=folder, stdout=out, env=os.environ | {MARK: mark})
        wait_for_steps(process, folder / "run" / "steps.jsonl")
        start = time.monotonic()
        while (seconds := time.monotonic() - start) < 60 * args.minutes and process.poll() is None:
            samples.append(look(seconds, ranks_of(mark), folder / "run" / "steps.jsonl"))
            file.write(json.dumps(asdict(samples[-1])) + "\n")
            file.flush()
            time.sleep(args.every)
        process.send_signal(signal.SIGUSR1)
        if process.wait() != 75:
            raise SystemExit(f"the run ended with {process.returncode}: see {folder / 'out.txt'}")
    return samples


def draw_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).resize((400, 300)).save(folder / f"{number}.jpg")
    lines = [f"{number % 10} {number}.jpg\n" for number in range(IMAGES)]
    (folder / "images.list").write_text(
        "".join(lines) * 64
    )  # an epoch, after which there is a state as well, takes minutes
    (folder / "val.list").write_text("".join(lines[:16]))


def wait_for_steps(process: subprocess.Popen[bytes], metrics: Path) -> None:
    while not metrics.exists() or latest_step(metrics) < 3:
        if process.poll() is not None:
            raise SystemExit(f"the run ended with {process.returncode} before it had begun")
        time.sleep(0.1)


def ranks_of(mark: str) -> list[int]:
    return [pid for pid in processes_of(mark) if b"alexnet_dist.train" in read_proc(pid, "cmdline") and is_python(pid)]


def is_python(pid: int) -> bool:
    with suppress(OSError):
        return "python" in Path(os.readlink(f"/proc/{pid}/exe")).name
    return False


def look(seconds: float, pids: list[int], metrics: Path) -> Sample:
    rollups = [dict(line.split(b":", 1) for line in read_proc(pid, "smaps_rollup").splitlines()[1:]) for pid in pids]
    times = [read_proc(pid, "stat").rpartition(b")")[2].split()[11:13] for pid in pids]
    return Sample(
        seconds=round(seconds, 3),
        megabytes=sum(int(rollup[b"Pss"].split()[0]) for rollup in rollups) / 1000,
        files=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        shared=sum(read_proc(pid, "maps").count(b"/dev/shm") for pid in pids),
        steps=latest_step(metrics),
        processor_seconds=sum(int(ticks) for pair in times for ticks in pair) / TICKS,
    )


def latest_step(metrics: Path) -> int:
    with open(metrics, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
        lines = [line for line in file.read().split(b"\n")[:-1] if line.startswith(b"{")]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def compare(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """Of each figure, what it was in the beginning and at the end."""
    tenth = len(samples) // 10
    if tenth < 2:
        raise SystemExit(f"{len(samples)} looks are too few to compare: more --minutes, or a shorter --every")
    first, second, last = samples[: tenth + 1], samples[tenth : 2 * tenth], samples[-tenth - 1 :]

    def speed(part: list[Sample], clock: str) -> float:
        took = getattr(part[-1], clock) - getattr(part[0], clock)
        return (part[-1].steps - part[0].steps) / took

    return {
        # While a state is written, its pages count as well: the median is without them.
        "megabytes": (median(s.megabytes for s in second), median(s.megabytes for s in last)),
        "open files": (fmean(s.files for s in second), fmean(s.files for s in last)),
        "parts of /dev/shm": (fmean(s.shared for s in second), fmean(s.shared for s in last)),
        "steps a second": (speed(first, "seconds"), speed(last, "seconds")),
        "steps a CPU second": (speed(first, "processor_seconds"), speed(last, "processor_seconds")),
    }


if __name__ == "__main__":
    main()
