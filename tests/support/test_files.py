"""Files that are replaced: never something that isn't one."""

import errno
import os
from pathlib import Path

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.support.files import check_writable, write_text


@pytest.mark.parametrize("kind", ["fifo", "folder"])
@pytest.mark.parametrize("write", [lambda path: write_text(path, "x"), check_writable])
def test_what_is_no_file_is_not_replaced(tmp_path, kind, write):
    path = tmp_path / "x"
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    before = path.stat()
    with pytest.raises(UserError, match=r"it is a (folder|device)"):
        write(path)
    assert path.stat() == before


def test_a_link_to_a_device_is_not_either(tmp_path):
    (tmp_path / "x").symlink_to("/dev/null")
    with pytest.raises(UserError, match="it is a device"):
        write_text(tmp_path / "x", "x")
    assert (tmp_path / "x").is_symlink()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_permissions(tmp_path, monkeypatch, number):
    """They say so in several ways."""

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "chmod", refuse)
    write_text(tmp_path / "x", "content")
    assert (tmp_path / "x").read_text() == "content"
