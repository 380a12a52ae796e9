"""alexnet-evaluate counts what training and inference count, and the images that it could not read."""

import json

import pytest
from commands import inference, predictions
from launcher import BIN, MPIRUN, Job, events, on_ranks


def evaluation(site, *flags):
    job = on_ranks(2, ["-m", "alexnet_dist.evaluate", "--load", "weights.safetensors", "--threads", 1, *flags], site)
    return job.ok().out


def test_evaluation_is_that_of_training_and_of_inference(site):
    result = json.loads(evaluation(site, "--data", "val.list", "--json"))
    trained = events(site / "runs", "epoch")[-1]["validation"]
    assert result["images"] == trained["images"] == 9
    assert result["top1"] == trained["top1"] * 9
    assert result["loss"] == pytest.approx(trained["loss"], rel=1e-5)
    truth = [line.split(" ", 1) for line in (site / "val.list").read_text().splitlines()]
    told = predictions(inference(site, "--input", *(path for _, path in truth), "--topk", 1, "--json").ok())
    assert sum(told[path][0]["class_id"] == int(label) for label, path in truth) == result["top1"]
    text = evaluation(site, "--data", "val.list")
    assert text.startswith(f"top-1 {result['top1'] / 9:.2%} ({result['top1']} of 9)")


def test_evaluation_by_its_command_and_from_the_c_flags(site):
    with Job(
        [MPIRUN, "-n", "2", str(BIN / "alexnet-evaluate"), "-load", "runs/best.safetensors", "--json"], site
    ) as job:
        job.wait().ok()
    assert json.loads(job.out)["images"] == 36  # images.list, the default


def test_evaluation_names_and_counts_broken_images(site):
    (site / "broken.list").write_text((site / "val.list").read_text() + "1 gone.png\n")
    text = evaluation(site, "--data", "broken.list")
    assert "skipped: broken.list:10: gone.png is missing" in text
    result = json.loads(evaluation(site, "--data", "broken.list", "--json"))
    assert (result["images"], len(result["broken"])) == (9, 1)
