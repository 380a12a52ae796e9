"""JSON in which people can read names in any language."""

import json
from typing import Any


def dump_json(value: Any, indent: int | None = None) -> str:
    """As json.dumps, with letters that aren't ASCII as they are; what UTF-8 lacks (bytes in names of files) is escaped."""
    return json.dumps(value, indent=indent, ensure_ascii=False).encode(errors="backslashreplace").decode()
