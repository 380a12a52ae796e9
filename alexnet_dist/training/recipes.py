"""The recipes that come with the package: TOML files of flags, as --config takes them.

Each begins with comments: a line that says what it is for, then its source, the accuracy to expect, and the speed needed.
"""

from pathlib import Path

from alexnet_dist.errors import UserError

FOLDER = Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """The names that --recipe takes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def recipe_file(name: str) -> Path:
    """The file of a recipe. Raises UserError if there is none of this name."""
    if name not in recipe_names():
        raise UserError(f"--recipe {name} is unknown. There are:\n{recipe_list()}")
    return FOLDER / f"{name}.toml"


def recipe_list() -> str:
    """Each recipe's name, and the line that says what it is for."""
    lines = []
    for name in recipe_names():
        with (FOLDER / f"{name}.toml").open(encoding="utf-8") as file:
            lines.append(f"  {name:14} {file.readline().removeprefix('#').strip()}")
    return "\n".join(lines)
