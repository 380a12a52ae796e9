"""Who may import whom: the layers of the house. Every module falls under one rule."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet_dist
from alexnet_dist.programs import PROGRAMS

PACKAGE = Path(alexnet_dist.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")

BELOW_PROGRAMS = {
    "cli",
    "errors",
    "kernels",
    "data",
    "model",
    "comm",
    "training",
    "runs",
    "support",
    "preparation",
    "predictor",
    "pictures",
    "serving",
    "weights",
    "supervision",
    "machine",
    "reporting",
}
# Module or folder -> what it may import, from this package and others, besides the standard library. The rule with the
# longest name that fits a module counts; a folder stands for all that is in it.
RULES = {
    **{program: {"numpy", "PIL", *BELOW_PROGRAMS} for program in PROGRAMS},
    "__main__": {"cli", "errors", "programs"},  # it imports each program by its name, when it is asked for
    "programs": set(),
    "completion": {"cli", "errors", "programs", "shtab", "training.recipes"},  # it, too
    "cli": {"__version__", "errors", "support.starting", "comm.world", "comm.ranks"},
    "errors": set(),
    "support": {"support", "errors"},
    "support.workspace": {"numpy"},
    "support.randomness": {"numpy"},
    "support.labels": {"numpy"},
    "support.division": set(),
    "support.npy": {"numpy"},
    "support.pairwise": {"numpy"},
    "support.threads": {"numpy", "threadpoolctl", "support.workspace"},
    "kernels": {"numpy", "kernels", "support.workspace", "support.labels"},
    "data": {"numpy", "PIL", "data", "errors", "support.randomness", "support.labels", "support.plural"},
    "data.shards": {"numpy", "data", "errors", "support.files"},
    "model": {"numpy", "model", "kernels", "support"},
    "comm": {"numpy", "mpi4py", "comm", "errors", "support", "model.parameters"},
    "predictor": {"numpy", "PIL", "data", "errors", "kernels", "model", "runs", "support"},
    "pictures": {"numpy", "PIL", "pictures"},
    "serving": {"numpy", "starlette", "serving", "data", "errors", "kernels", "model", "pictures", "predictor"},
    "serving.server": {"h11", "starlette", "uvicorn", "errors"},
    "serving.guard": {"starlette"},
    "serving.turns": {"numpy", "model.explain"},
    "weights": {"numpy", "torch", "onnx", "weights", "errors", "model", "runs", "support", "data.augment"},
    "runs": {"numpy", "safetensors", "runs", "errors", "model", "support"},
    "runs.tensorboard": {"tensorboardX", "runs", "errors", "support"},
    "runs.checkpoint": {"numpy", "safetensors", "runs", "errors", "model", "support", "data.augment"},
    "comm.ranks": {"numpy", "errors", "support"},
    "machine": {"numpy", "threadpoolctl", "machine", "errors", "support"},
    "preparation": {"numpy", "PIL", "preparation", "data", "errors", "support"},
    "preparation.imagenet": {"PIL", "preparation", "comm.ranks", "data", "errors", "support"},
    "support.tracking": {"rich", "support.terminal"},
    "training.live": {"rich", "training.screen", "runs", "support"},
    "training.screen": {"support.duration"},
    "preparation.digits": {"numpy", "PIL", "sklearn", "preparation", "errors", "support"},
    "reporting": {"reporting", "errors", "runs", "support"},
    "reporting.series": {"numpy", "reporting", "runs"},
    "reporting.predictions": {"numpy", "errors", "data.class_names"},
    "reporting.pictures": {"numpy", "PIL", "data", "errors", "model.architecture", "runs.checkpoint"},
    "reporting.figures": {"altair", "vl_convert", "reporting", "support"},
    "reporting.curves": {"altair", "reporting", "runs"},
    "reporting.classes": {"altair", "reporting"},
    "reporting.page": {"altair", "vl_convert", "jinja2", "reporting", "errors", "runs", "support"},
    "training": {"numpy", "training", "comm", "data", "errors", "kernels", "model", "runs", "support"},
    "supervision": {"supervision", "errors", "support"},
    "supervision.command": {"supervision", "errors", "support", "training.config", "training.flags"},
    "training.description": {"training", "support", "__version__"},
    "training.flags": {"training", "cli", "errors", "model"},
    "training.optim": {"numpy", "support.workspace"},
    "training.schedule": set(),
    "training.progress": {"training.schedule"},
}


def imports(source):
    """The full names of what a module imports; of our own, without the package's."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            # `from package import name` may mean a module or something in it; the longer name is the stricter one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name.removeprefix("alexnet_dist.")


def fits(name, rule):
    return name == rule or name.startswith(f"{rule}.")


def rule_of(module):
    """The name of the rule for a module, or None."""
    return max((rule for rule in RULES if fits(module, rule)), key=len, default=None)


def violations(module, source):
    """What a module imports against its rule."""
    allowed = RULES[rule_of(module)] | sys.stdlib_module_names
    return sorted(name for name in imports(source) if not any(fits(name, rule) for rule in allowed))


def module_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_are_allowed(path):
    assert rule_of(module_of(path)), "no rule says what this module may import"
    assert violations(module_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("kernels.pool", "from alexnet_dist.support.threads import Team"),
        ("kernels.pool", "from alexnet_dist.support import threads"),
        ("kernels.pool", "import alexnet_dist.support.files"),
        ("data.loader", "from mpi4py import MPI"),
        ("data.loader", "from alexnet_dist.comm.world import World"),
        ("model.network", "from alexnet_dist.comm import world"),
        ("comm.node", "from alexnet_dist.data.loader import Batch"),
        ("comm.node", "from alexnet_dist.model.network import AlexNet"),
        ("runs.timeline", "if True:\n    from alexnet_dist.training.progress import Sums"),
        ("training.trainer", "from alexnet_dist import evaluate"),
        ("layout", "from alexnet_dist.train import main"),
        ("support.files", "def late():\n    import safetensors"),
    ],
)
def test_a_forbidden_import_is_noticed(module, line):
    assert module_of(next(path for path in FILES if module_of(path) == module)) == module
    assert len(violations(module, f'"""A module."""\n\n{line}\n')) == 1


def test_a_module_without_a_rule_is_noticed():
    assert rule_of("somewhere.new") is None
    assert rule_of("trainer") is None  # not the rule for `train`


def test_the_rules_name_what_exists():
    for name in {*RULES, *(allowed for rule in RULES.values() for allowed in rule)}:
        path = PACKAGE / name.replace(".", "/")
        ours = name.split(".")[0] in {*PROGRAMS, *BELOW_PROGRAMS}
        assert not ours or path.is_dir() or path.with_suffix(".py").is_file(), name


def test_every_folder_says_what_it_is():
    for folder in {path.parent for path in FILES}:
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        assert docstring, folder
        assert docstring.endswith(".")


@pytest.mark.parametrize(
    "module",
    [
        "model.network",
        "runs.checkpoint",
        "training.flags",
        "predictor",
        "training.evaluation",
        "training.elastic",
        "training.trainer",
        *sorted(PROGRAMS),
    ],
)
def test_no_mpi_until_it_is_needed(module):
    code = f"import sys, alexnet_dist.{module}; sys.exit('mpi4py' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
