"""Files and functions that fit a screen or a few, and functions that take records rather than long lists of values."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("alexnet_dist", "benchmarks", "docs", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, POSITIONAL = 300, 50, 5


def functions(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


def long_functions(source):
    lines = [(node.name, node.end_lineno - node.lineno + 1) for node in functions(source)]
    return [(name, count) for name, count in lines if count > LINES_OF_A_FUNCTION]


def test_a_long_function_is_noticed():
    long = "class A:\n    def f(self):\n" + "        pass\n" * 50
    assert long_functions(f"{long}\n\nclass B:\n    def f(self):\n        pass\n") == [("f", 51)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_OF_A_FILE
    assert long_functions(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.is_relative_to(ROOT / "alexnet_dist")], ids=lambda path: path.name
)
def test_functions_take_few_positional_parameters(path):
    for node in functions(path.read_text(encoding="utf-8")):
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        if names[:1] in (["self"], ["cls"]):
            del names[0]
        assert len(names) <= POSITIONAL, f"{node.name}({', '.join(names)})"
