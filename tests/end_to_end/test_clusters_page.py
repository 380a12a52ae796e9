"""docs/clusters.md: the two hosts of its transcript do what it shows, with its command lines and hostfiles."""

import re
import shlex
import shutil
from pathlib import Path

from launcher import Job, needs_mpirun, open_mpi

from alexnet_dist.training.flags import parse_config

pytestmark = needs_mpirun

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
SAME = ("training images:", "2 ranks", "learning rate", "output:")  # whatever the images, the network and the time are
SMALL = ["--width", "0.0625", "--image-size", "64", "--num-classes", "10"]


def transcripts() -> list[tuple[str, str, list[str]]]:
    """Of each: its hostfile, its command line, and what it shows of the output."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.M | re.S):
        listing, command, output = re.fullmatch(r"\$ cat hostfile\n(.*?)\$ (mpirun .*?)\n(.*)", block, re.S).groups()
        found.append((listing, command, output.splitlines()))
    return found


def test_its_jobs_flags_are_understood():
    commands = "\n".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S))
    flags = re.findall(r'launch/(?:slurm\.sbatch|local\.sh \d+) (--.*)|ALEXNET_FLAGS="(.*?)"', commands)
    assert len(flags) == 5
    for words in map(shlex.split, map("".join, flags)):
        parse_config(words)


def test_there_is_one_for_each_mpi():
    assert ["slots=" in listing for listing, _, _ in transcripts()] == [False, True]


def test_its_hosts_train(hosts, pictures, tmp_path):
    listing, command, shown = transcripts()[open_mpi()]
    (tmp_path / "demo").mkdir()
    pictures.write_list(tmp_path / "demo" / "images.list", 33)
    pictures.write_list(tmp_path / "demo" / "val.list", 9)
    (tmp_path / "hostfile").write_text(listing)
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    with Job(hosts.all[0].command(["bash", "-c", f"{command} {' '.join(SMALL)}"], tmp_path), tmp_path) as job:
        job.wait().ok()
    printed = (job.out + job.err).splitlines()
    expected = [line for line in shown if line.startswith(SAME)]
    assert expected
    assert [line for line in expected if line not in printed] == [], str(job)
    for start in ("gradients: hybrid (each of 2 nodes sends", "finished after 1 epoch and"):
        assert sum(line.startswith(start) for line in shown) == sum(line.startswith(start) for line in printed) == 1
