"""The timeline of a run: every phase of every step of every rank, and the exchange of gradients."""

import json

import pytest
from launcher import needs_mpirun, start_training, train, while_paused

pytestmark = needs_mpirun

RANKS, STEPS = 2, 6


@pytest.mark.parametrize("sync", ["allreduce", "sharded", "hybrid"])
def test_timeline(pictures, tmp_path, sync):
    pictures.write_list(tmp_path / "train.list", 12)
    pictures.write_list(tmp_path / "val.list", 4)
    data = ["--data", "train.list", "--val", "val.list", "--global-batch", 4, "--epochs", 2, "--lr", 0.001]
    job = train(RANKS, [*data, "--sync", sync, "--timeline", "trace.json", "--output-dir", "run"], tmp_path).ok()
    assert job.out.count("ranks work equally long") + job.out.count("slowest: rank") == 2  # epochs
    recorded = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in recorded if event["name"] == "process_name"}
    assert [names[rank].split(" on ")[0] for rank in range(RANKS)] == ["rank 0", "rank 1"]
    for rank in range(RANKS):
        spans = [event for event in recorded if event["ph"] == "X" and event["pid"] == rank]
        assert all(span["dur"] >= 0 and span["ts"] >= 0 for span in spans)
        phases = [span for span in spans if span["tid"] == 0]
        for phase in ("data", "forward", "backward", "update", "wait"):
            assert sum(span["name"] == phase for span in phases) == STEPS * (2 if phase == "wait" else 1)
        ends = 0.0
        for span in sorted(phases, key=lambda span: span["ts"]):
            assert span["ts"] >= ends - 1, "phases of one rank overlap"  # microseconds
            ends = span["ts"] + span["dur"]
        assert sum("bucket" in span["name"] for span in spans if span["tid"] == 1) >= STEPS


def test_a_timeline_that_can_t_be_written_is_refused_before_training(pictures, tmp_path):
    pictures.write_list(tmp_path / "train.list", 12)
    job = train(RANKS, ["--data", "train.list", "--timeline", "train.list/trace.json"], tmp_path)
    assert job.code == 2
    assert job.err.count("cannot write train.list") == 1


def test_a_timeline_that_can_t_be_written_at_the_end_costs_nothing_else(pictures, tmp_path):
    pictures.write_list(tmp_path / "train.list", 12)
    flags = ["--data", "train.list", "--val", "train.list", "--global-batch", 2, "--epochs", 6, "--lr", 0.001]
    with start_training(RANKS, [*flags, "--timeline", "trace.json", "--output-dir", "run"], tmp_path, "pause@2") as job:
        with while_paused(job, tmp_path):
            (tmp_path / "trace.json").mkdir()  # in its place
        job.wait().ok()
    assert "WARNING: no timeline: cannot write trace.json" in job.out, str(job)
    assert "Traceback" not in job.out + job.err, str(job)
    assert (tmp_path / "run" / "complete").exists()
    assert list((tmp_path / "trace.json").iterdir()) == list(tmp_path.glob(".*")) == []
