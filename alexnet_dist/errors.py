"""The exceptions for what people can mend: their text is all that is printed. And the exit codes."""

BAD_INPUT = 2
DIVERGED = 65  # this and the following are those of sysexits.h: EX_DATAERR
STALLED = 69  # EX_UNAVAILABLE
PARTED = 71  # EX_OSERR
STORAGE = 74  # EX_IOERR
STOPPED = 75  # EX_TEMPFAIL: "try again later"


class UserError(Exception):
    """Bad input or a bad environment. The text says what is wrong, the value, where, and what to do.

    `exit_code` is that of the program which it ends.
    """

    exit_code = BAD_INPUT


class StorageError(UserError):
    """A file can't be written or read, for the storage's sake: it is full, or fails."""

    exit_code = STORAGE


class SharedError(UserError):
    """A UserError that every rank has raised: all ranks exit normally, and rank 0 prints it."""

    def __init__(self, text: str, exit_code: int | None = None) -> None:
        super().__init__(text)
        if exit_code is not None:
            self.exit_code = exit_code
