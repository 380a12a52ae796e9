"""The command that alexnet-supervise is given, and what becomes of it where hosts are gone."""

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.supervision.command import Command

HOSTFILES = {
    "mpich": "# mine\none:2\ntwo:2  # the big one\nthree\n",
    "openmpi": "one slots=2\ntwo slots=2 max_slots=4\nthree\n",
}


@pytest.mark.parametrize("flavour", HOSTFILES)
def test_a_host_that_is_gone_is_left_out_with_its_ranks(tmp_path, flavour):
    (tmp_path / "hosts").write_text(HOSTFILES[flavour])
    words = ["mpirun", "-f", str(tmp_path / "hosts"), "-n", "6", "python", "-m", "alexnet_dist.train", "--epochs", "3"]
    command = Command.of(words)
    assert command.attempt(tmp_path / "left", lambda host: True) == ([*words, "--resume", "auto"], 6, [])
    there, ranks, gone = command.attempt(tmp_path / "left", lambda host: host != "two")
    assert (ranks, gone) == (4, ["two"])
    assert there == [*words[:2], str(tmp_path / "left"), "-n", "4", *words[5:], "--resume", "auto"]
    assert [line.split(":")[0].split(" ")[0] for line in (tmp_path / "left").read_text().splitlines()] == [
        "one",
        "three",
    ]


@pytest.mark.parametrize("flag", ["-hosts", "--host", "-H"])
def test_a_host_of_the_command_line_is_left_out_likewise(tmp_path, flag):
    words = ["mpirun", flag, "one:2,two:2,three", "-n", "6", "python", "-m", "alexnet_dist.train"]
    command = Command.of(words)
    assert command.attempt(tmp_path / "left", lambda host: True) == ([*words, "--resume", "auto"], 6, [])
    there, ranks, gone = command.attempt(tmp_path / "left", lambda host: host != "two")
    assert (ranks, gone) == (4, ["two"])
    assert there == [*words[:2], "one:2,three", "-n", "4", *words[5:], "--resume", "auto"]


@pytest.mark.parametrize(
    "program",
    [["python", "-m", "alexnet_dist.train"], ["python", "-m", "alexnet_dist", "train"], ["bin/alexnet", "train"]],
)
def test_training_by_each_of_its_names(program):
    command = Command.of(["mpirun", *program, "--output-dir", "there"])
    assert (command.launcher, command.folder.name) == (["mpirun", *program], "there")


@pytest.mark.parametrize("host", ["-f", "-hosts"])
def test_fewer_ranks_must_not_change_the_global_batch(host):
    words = ["mpirun", host, "one,two", "-n", "6", "python", "-m", "alexnet_dist.train", "--batch-size", "32"]
    with pytest.raises(UserError, match=r"--batch-size is 32 for each rank, .*: say --global-batch 192 instead"):
        Command.of(words)
    Command.of([*words[:1], *words[3:]])  # one host, always as many ranks
    Command.of([*words[:-2], "--global-batch", "192"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["true"], "must be one of alexnet_dist.train"),
        (["alexnet", "evaluate"], "must be one of alexnet_dist.train"),
        ([], "must be one of alexnet_dist.train"),
        (["mpirun", "python", "-m", "alexnet_dist.train", "--resume"], "leave --resume out"),
        (["mpirun", "python", "-m", "alexnet_dist.train", "--epochs", "0"], "--epochs is 0"),
        (["mpirun", "-n", "x", "python", "-m", "alexnet_dist.train"], "-n is 'x'"),
    ],
)
def test_commands_that_are_refused(words, text):
    with pytest.raises(UserError, match=text):
        Command.of(words)
