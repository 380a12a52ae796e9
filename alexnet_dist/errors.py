"""The exceptions for users' mistakes: their text is all that is printed."""


class UserError(Exception):
    """Bad input or a bad environment. The text says what is wrong, the value, where, and what to do; exit code 2."""


class SharedError(UserError):
    """A UserError that every rank has raised: all ranks exit normally, and rank 0 prints it."""
