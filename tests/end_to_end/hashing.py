"""What the files of a folder hold, to see whether a program has changed them."""

import contextlib
import hashlib
import json
from pathlib import Path


def hashes(folder: Path) -> dict[str, str]:
    """What every file and link in a folder holds."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(_content(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def _content(path: Path) -> bytes:
    """A file's; safetensors writes the metadata of its header in any order, which is one content."""
    content = path.read_bytes()
    if path.suffix == ".safetensors" and content[8:9] == b"{":
        end = 8 + int.from_bytes(content[:8], "little")
        with contextlib.suppress(ValueError):
            content = json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]
    return content
