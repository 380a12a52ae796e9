"""What all programs do with errors that are a person's to mend."""

import pytest

from alexnet_dist import cli
from alexnet_dist.errors import StorageError, UserError


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("the list is empty"), 2, "the list is empty"),
        (StorageError("the disk is full"), 74, "the disk is full"),
        (
            PermissionError(13, "Permission denied", "/root/x"),
            2,
            "/root/x may not be used by this person: Permission denied",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_line_and_the_exit_code(capsys, error, code, text):
    def body(args):
        raise error

    assert cli.run(cli.Parser("alexnet-x", None), [], body) == code
    assert capsys.readouterr().err == (f"alexnet-x: error: {text}\n" if text else "")
