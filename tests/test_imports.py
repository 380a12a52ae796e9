"""Who may import whom: the layers of the house, as docs/LOG.md and the package's docstrings promise."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet_dist

PACKAGE = Path(alexnet_dist.__file__).parent
FOUNDATION = {"numpy", "workspace", "errors", "randomness"}
ALLOWED = {  # module or folder -> what it may import besides the standard library; others (programs) import anything
    "errors": set(),
    "workspace": {"numpy"},
    "randomness": {"numpy"},
    "threads": {"numpy", "workspace", "threadpoolctl"},
    "kernels": {"numpy", "workspace", "kernels"},
    "optim": {"numpy", "workspace"},
    "schedule": {"numpy"},
    "progress": {"schedule"},
    "parameters": FOUNDATION,
    "architecture": {"kernels", "parameters"},
    "convolutions": {"numpy", "workspace", "kernels", "threads"},
    "layers": {*FOUNDATION, "convolutions", "kernels", "parameters", "threads"},
    "model": {"numpy", "workspace", "architecture", "convolutions", "layers", "parameters", "threads"},
    "node_classifier": {"numpy", "architecture", "comm", "layers", "model", "parameters", "threads"},
    "synchronization": {"numpy", "comm", "config", "engine"},
    "comm": {"numpy", "workspace", "errors", "parameters", "threads", "mpi4py", "comm"},
    "data": {*FOUNDATION, "PIL", "data"},
    "files": {"errors"},
    "checkpoint": {"numpy", "safetensors", "architecture", "errors", "files", "parameters"},
}


def imports(path):
    """The first names of what a file imports; of our own modules, the second."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "alexnet_dist":
                names = [f"alexnet_dist.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield parts[1] if parts[0] == "alexnet_dist" else parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_allowed(path):
    allowed = ALLOWED.get(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    if allowed is None:
        return
    found = set(imports(path)) - sys.stdlib_module_names
    assert found <= allowed, f"{path.name} imports {sorted(found - allowed)}"


def test_the_rules_name_modules_that_exist():
    for name in ALLOWED:
        assert (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


@pytest.mark.parametrize("module", ["model", "inference", "checkpoint", "prepare", "train", "evaluate"])
def test_no_mpi_until_it_is_needed(module):
    code = f"import sys, alexnet_dist.{module}; sys.exit('mpi4py' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_files_stay_short():
    long = {path.name: n for path in FILES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 320}
    assert not long
