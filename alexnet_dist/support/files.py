"""Files that are either complete or absent: written under a temporary name, flushed to the disk, renamed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alexnet_dist.errors import StorageError, UserError

OF_THE_STORAGE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ENODEV, errno.EFBIG}
)
# What a file system says of an operation that it doesn't have.
CAN_NOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError into a UserError that names `path` and the reason: a StorageError if the storage is to blame."""
    try:
        yield
    except OSError as error:
        kind = StorageError if error.errno in OF_THE_STORAGE else UserError
        raise kind(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an OSError into a StorageError that names `path` and the reason, unless a file isn't there: what can't be read
    now may be whole."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror or error}. See to the storage, then try again"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name to write to; the file replaces `path` if the block succeeds, and is removed otherwise.

    Raises UserError if it can't be written (no space, no permission, a device); `path` is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            _refuse_other_kinds(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            with suppress(OSError):  # a file system without permissions; the content is what counts
                temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Replaces the file's content. Raises UserError like `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: Path) -> None:
    """Raises UserError unless a file can be created at `path`: to be called before hours of work, not after."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
    with writing(path.parent):
        _refuse_other_kinds(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()


def _refuse_other_kinds(path: Path) -> None:
    """A file that is renamed to a device's name takes its place: /dev/null would be a file from then on."""
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {path}: it is a {'folder' if path.is_dir() else 'device, not a file'}")


def _umask() -> int:
    # The only portable way to ask for it is to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk, where its file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CAN_NOT:
            raise
    finally:
        os.close(handle)
