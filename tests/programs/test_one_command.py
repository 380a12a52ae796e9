"""`alexnet PROGRAM`: one command for all of them, by its three names; --version; flags that are nearly right."""

import pkgutil
import re
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
from end_to_end.launcher import BIN, MPIRUN, SMALL, alone, needs_mpirun, open_mpi

import alexnet_dist
from alexnet_dist.__main__ import main
from alexnet_dist.programs import PROGRAMS

WAYS = {"script": [BIN / "alexnet"], "module": [sys.executable, "-m", "alexnet_dist"]}
LINES, COLUMNS = 24, 120  # of the help, beside a line for each program


def test_every_program_is_in_the_table():
    """A module with a parser and a main is a program: add it to programs.py, with the words that say what it does."""
    names = {module.name for module in pkgutil.iter_modules(alexnet_dist.__path__)} - {"__main__"}
    modules = {name: import_module(f"alexnet_dist.{name}") for name in names}
    found = {name for name in names if hasattr(modules[name], "build_parser") and hasattr(modules[name], "main")}
    assert found == set(PROGRAMS)


@pytest.mark.parametrize("way", WAYS)
def test_the_help_is_short_and_names_each_program_once(way, tmp_path):
    job = alone([*WAYS[way], "--help"], tmp_path).ok()
    lines = job.out.splitlines()
    assert len(lines) <= LINES + len(PROGRAMS)
    assert max(map(len, lines)) <= COLUMNS
    for name in PROGRAMS:
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1
    assert job.err == ""


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_says_its_help_and_version(name, capsys):
    for flag, word in (
        ("--help", "usage: alexnet-"),
        ("--version", f"alexnet_dist {alexnet_dist.__version__} (Python "),
    ):
        try:
            code = main([name, flag])
        except SystemExit as end:  # argparse's way
            code = end.code
        assert not code
        assert capsys.readouterr().out.startswith(word)
    assert find_spec(f"alexnet_dist.{name}")


def test_the_version_is_one_line_with_what_is_used(tmp_path):
    job = alone([BIN / "alexnet", "--version"], tmp_path).ok()
    assert len(job.out.splitlines()) == 1
    for name in ("Python 3.", "NumPy ", "mpi4py ", "Pillow "):
        assert name in job.out


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trian --data x", "there is no program trian. Did you mean train instead of trian?"),
        ("xyz", "there is no program xyz (see --help)"),
        ("--versoin", "Did you mean --version instead of --versoin?"),
        ("prepare folder here --val_dir x", "Did you mean --val-dir instead of --val_dir?"),
    ],
)
def test_what_is_nearly_right_is_named(way, words, said, tmp_path):
    job = alone([*WAYS[way], *words.split()], tmp_path)
    assert (job.code, job.out, len(job.err.splitlines())) == (2, "", 1), str(job)
    assert said in job.err
    assert job.err.startswith("alexnet prepare: error" if "prepare" in words else "alexnet: error"), str(job)


def test_without_a_program_there_is_the_help(tmp_path):
    job = alone([BIN / "alexnet"], tmp_path)
    assert (job.code, job.out) == (2, "")
    assert "programs:" in job.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--output_dir x",
            "unrecognized arguments: --output_dir x. Did you mean --output-dir instead of --output_dir?",
        ),
        ("--epoch=3", "Did you mean --epochs instead of --epoch?"),
        (
            "--epoch 3 --lrr 2",
            ". Did you mean --epochs instead of --epoch? Did you mean --lr instead of --lrr? (see --help)",
        ),
        ("-b 3", "unrecognized arguments: -b 3 (see --help)"),  # not -batchsize, by chance
        ("-e 3", "unrecognized arguments: -e 3 (see --help)"),
        ("-s x", "unrecognized arguments: -s x (see --help)"),
        ("--save -- --epoch", "--save/-save: expected one argument (see --help)"),
        ("--zzz", "unrecognized arguments: --zzz (see --help)"),
    ],
)
def test_flags_of_training_that_are_not_right(flags, said, capsys):
    from alexnet_dist.errors import UserError
    from alexnet_dist.training.flags import parse_config

    with pytest.raises(UserError, match=re.escape(said)):
        parse_config(flags.split())


def test_a_missing_flag_that_is_only_misspelt_is_named(capsys):
    assert main(["convert", "--class-nmes", "x"]) == 2
    assert "Did you mean --class-names instead of --class-nmes?" in capsys.readouterr().err


@needs_mpirun
@pytest.mark.parametrize("way", WAYS)
def test_ranks_are_started_by_it(way, tmp_path):
    """That all ranks of mpirun are there is seen by what they say once."""
    job = alone([MPIRUN, "-n", "2", *WAYS[way], "train", *SMALL, "--data", "none.list"], tmp_path)
    assert job.code == 2 or (open_mpi() and job.code), str(job)
    assert job.err.count("alexnet train: error: ") == 1, str(job)
    assert "none.list" in job.err
