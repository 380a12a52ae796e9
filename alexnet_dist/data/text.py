"""Text files that people write: read whole, as bytes, with messages for whatever can be wrong with them."""

from pathlib import Path

from alexnet_dist.errors import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_bytes(path: Path, what: str) -> bytes:
    """The content of a file; `what` it is meant to be is named in messages. Raises UserError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"the {what} {path} doesn't exist; check the path, or write it with alexnet-prepare") from None
    except IsADirectoryError:
        raise UserError(f"the {what} {path} is a folder; name the file in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the {what} {path} can't be read: {reason}") from None
