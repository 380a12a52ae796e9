"""The examples of docs/extending.md run as they stand: each is a whole program."""

import re
from pathlib import Path

import pytest
from end_to_end.launcher import needs_mpirun, on_ranks

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", PAGE, re.M | re.S))
RANKS = {"A layer": 1, "An optimizer": 1, "A strategy": 2, "A source of images": 1}


def test_every_example_is_run():
    assert list(EXAMPLES) == list(RANKS)
    assert PAGE.count("```python") == len(EXAMPLES)


@needs_mpirun
@pytest.mark.parametrize("name", RANKS)
def test_example(name, tmp_path):
    program = tmp_path / "example.py"
    program.write_text(EXAMPLES[name], encoding="utf-8")
    on_ranks(RANKS[name], [program], tmp_path).ok()
