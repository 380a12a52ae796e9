"""The log and the metrics: a disk that fails costs lines, not the run, and no line is ever glued to a torn one."""

import errno
import json
import os

import pytest

from alexnet_dist.runs.log import RunLog, log

pytestmark = pytest.mark.usefixtures("package_logger")


def lines(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


class Failing:
    """A metrics file on a disk that has room for `room` bytes, or fails with `error`."""

    def __init__(self, file, room=0, error=None):
        self.file, self.room, self.error = file, room, error
        self.name = file.name

    def write(self, content):
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        written = self.file.write(content[: self.room])
        self.room -= written
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize(("room", "error"), [(7, None), (0, errno.EIO)])
def test_a_disk_that_fails_costs_lines_and_not_the_run(tmp_path, room, error, capsys):
    out = RunLog(tmp_path, enabled=True)
    out.metrics("steps", step=1)
    table = out._tables["steps"]
    real = table._file
    table._file = Failing(real, room, error)
    out.metrics("steps", step=2)
    out.metrics("steps", step=3)
    table._file = real
    out.metrics("steps", step=4)
    out.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 4]
    said = capsys.readouterr().out
    reason = "Input/output error" if error else "No space left on device"
    assert said.count(f"steps.jsonl can't be written: {reason}. Training goes on without") == 1
    assert said.count("can be written again") == 1


@pytest.mark.parametrize("torn", [b'{"event": "st', b"{" + 10_000 * b"x", b"\0" * 5000])
@pytest.mark.parametrize("whole", [0, 3])
def test_a_torn_line_is_cut(tmp_path, torn, whole):
    (tmp_path / "steps.jsonl").write_bytes(whole * b'{"step": 1, "attempt": 4}\n' + torn)
    out = RunLog(tmp_path, enabled=True)
    out.metrics("steps", step=2)
    out.close()
    assert [line["step"] for line in lines(tmp_path)] == whole * [1] + [2]
    assert lines(tmp_path)[-1]["attempt"] == (5 if whole else 1)


def test_a_name_that_is_not_utf_8_is_in_the_log(tmp_path):
    out = RunLog(tmp_path, enabled=True)
    log.info("saved caf\udce9.safetensors")
    out.close()
    assert "saved caf\\udce9.safetensors" in (tmp_path / "train.log").read_text()
