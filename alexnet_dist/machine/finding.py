"""What is found out about a machine."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One line for people, the same as `data` that JSON can represent, and what is wrong with what to do about it.

    With `problems` a run would not work; `notes` are what it could do better with.
    """

    name: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
