"""Storage that fails for a while: an image that can't be read for the storage's sake isn't broken, and is read again."""

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from alexnet_dist.errors import STOPPED, UserError

# What is wrong with one file, and will be so tomorrow. All other errors of the system may pass: EIO, ESTALE, EMFILE, ...
OF_THE_FILE = frozenset(
    getattr(errno, name)
    for name in ("ENOENT", "ENOTDIR", "EISDIR", "EACCES", "EPERM", "ELOOP", "ENAMETOOLONG", "ENXIO", "ENODEV", "EINVAL")
)
PASSING = (OSError, MemoryError)
_read_from: set[Path] = set()  # folders, and those above them, from which this process has opened an image
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts: each pause is twice the one before it


class StorageFailure(UserError):
    """Images can't be read, though nothing is known to be wrong with them."""

    exit_code = STOPPED


class NotAFile(OSError):
    """A path that leads to something else than a regular file. `strerror` continues a sentence that begins with it."""


class Patience:
    """How long readers go on trying: `seconds` since the first image failed, for all images together, until one of those
    that failed has been read. The threads of a loader share one of these.

    `say` is told once when reading fails, and once when it works again; `stop` says whether a signal has asked to end.
    """

    def __init__(
        self,
        seconds: float = 0.0,
        say: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.seconds, self.say, self.stop = seconds, say, stop
        self.closing = threading.Event()  # set when nobody waits for what is being read any more
        self._lock = threading.Lock()
        self._failing_since: float | None = None

    def begin(self) -> None:
        """Somebody waits for images, and of earlier failures nothing counts any more."""
        self.closing.clear()
        with self._lock:
            self._failing_since = None

    def persist(self, read: Callable[[], None], where: Callable[[], str]) -> None:
        """Calls `read` until it raises no OSError or MemoryError. Raises StorageFailure when that takes too long; what else
        `read` raises, as it is. `where` says what is read, for messages."""
        pause, failed = FIRST_PAUSE, False
        while True:
            try:
                read()
                break
            except PASSING as error:
                failed = True
                self._fails(error, where())
            if self.closing.wait(pause):
                raise StorageFailure(f"{where()}: reading was given up")
            pause = min(2 * pause, LONGEST_PAUSE)
        if failed:
            self._works()

    def _fails(self, error: BaseException, where: str) -> None:
        reason = getattr(error, "strerror", None) or type(error).__name__
        with self._lock:
            now, begins = time.monotonic(), self._failing_since is None
            since = self._failing_since = now if self._failing_since is None else self._failing_since
        if now - since >= self.seconds:
            tried = f", {now - since:.0f} s after the first failure (--io-patience)" if self.seconds else ""
            raise StorageFailure(f"{where} can't be read: {reason}{tried}") from error
        if begins:
            self.say(f"{where} can't be read: {reason}. Trying again for up to {self.seconds:g} s (--io-patience)")

    def _works(self) -> None:
        with self._lock:
            since, self._failing_since = self._failing_since, None
        if since is not None:
            self.say(f"images can be read again, after {time.monotonic() - since:.0f} s")


def is_of_the_file(error: OSError) -> bool:
    """Whether an error of opening or reading a file says something of this file, and not of the storage."""
    return error.errno in OF_THE_FILE


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a file to read. Anything else that the path may lead to is refused at once: a FIFO would wait for a writer
    for ever, a device might never end. Raises OSError."""
    # Non-blocking, so that opening a FIFO returns; on regular files that says nothing.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise NotAFile(errno.EINVAL, f"is a {_kind(mode)}, not an image", str(path))


def open_below(root: Path, path: Path) -> BinaryIO:
    """Opens a file of a data set that lies at `root`. Raises OSError: ESTALE if it is missing with all around it, as where
    a file system isn't mounted any more, or if its folder, from which files have been read, is locked now; what is wrong
    with this file alone, as it came."""
    try:
        file = open_regular(path)
    except FileNotFoundError:
        if gone := _vanished(root, path):
            raise OSError(errno.ESTALE, f"the folder {gone}; is its file system mounted?") from None
        raise
    except PermissionError:
        if path.parent in _read_from and not _can_be_seen(path):
            raise OSError(errno.ESTALE, f"the folder {path.parent} was readable, and is not any more") from None
        raise
    for folder in path.parents:
        if folder in _read_from:
            break
        _read_from.add(folder)
    return file


def _vanished(root: Path, path: Path) -> str:
    """What has vanished around a missing file; "" if nothing has."""
    for folder in (root, *(folder for folder in path.parents if folder in _read_from)):
        if not folder.is_dir():
            return f"{folder} is gone"
    there = next((folder for folder in path.parents if folder.is_dir()), root)
    try:
        # Where a file system was mounted, an empty folder stays behind.
        return "" if next(os.scandir(there), None) else f"{there} is empty"
    except OSError:
        return ""


def _can_be_seen(path: Path) -> bool:
    """Whether a file that may not be opened is at least to be seen in its folder."""
    try:
        os.stat(path)
    except PermissionError:
        return False
    return True


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "FIFO", stat.S_ISSOCK: "socket"}
    return next((name for test, name in kinds.items() if test(mode)), "device")
