"""The exceptions for a person's mistakes: their text is all that they get to see."""


class UserError(Exception):
    """Bad input or a bad environment. The text says what is wrong, the value, where, and what to do; exit code 2."""


class SharedError(UserError):
    """A UserError that every rank has raised: all can leave in good order, and rank 0 speaks for them."""
