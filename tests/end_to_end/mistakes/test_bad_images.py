"""Mistakes and failures on two ranks: one clear message, an exit code, no waiting, and earlier checkpoints unharmed."""

import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from launcher import PROMPT, assert_refused, events, hashes, needs_mpirun, on_ranks, start_training, steps, train
from safetensors.numpy import load_file, save_file

pytestmark = needs_mpirun

GOOD, VALIDATION = 24, 6  # images of train.list and val.list; 3 steps of 8
BASE = ("--data", "train.list", "--val", "val.list", "--epochs", "1", "--global-batch", "8", "--lr", "0.001")


@pytest.fixture(scope="module")
def done(pictures, tmp_path_factory):
    """A folder with images, lists of them, and in `run` a run of one epoch. Not to be changed."""
    folder = tmp_path_factory.mktemp("done")
    for name, first, count in (("train", 0, GOOD), ("val", GOOD, VALIDATION)):
        lines = []
        for number, (label, path) in enumerate(pictures.files[first : first + count], 1):
            image = f"{name} {number}{path.suffix}"
            shutil.copy(path, folder / image)
            lines.append(f"{label} {image}\n")
        (folder / f"{name}.list").write_text("".join(lines))
    train(2, [*BASE, "--output-dir", "run"], folder).ok()
    return folder


@pytest.fixture
def site(done, tmp_path):
    """A copy of that folder, to be worked in."""
    return shutil.copytree(done, tmp_path / "site", symlinks=True)


def refuses(site, *flags, words, ranks=2):
    """The mistake is refused in one message, and every file of the earlier run stays as it was."""
    before = hashes(site / "run")
    assert_refused(train(ranks, [*BASE, "--output-dir", "run", *flags], site), *words)
    assert hashes(site / "run") == before


# Lists


@pytest.mark.parametrize("flag", ["--data", "--val"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (None, ("bad.list", "doesn't exist")),
        ("", ("bad.list", "no images")),
        ("# nothing but\n\n# comments\n", ("bad.list", "no images")),
        ("-1 x.png", ("bad.list:3", "-1", "negative")),
        ("cat x.png", ("bad.list:3", "cat x.png", "whole number")),
        ("1.5 x.png", ("bad.list:3", "1.5", "whole number")),
        ("3 x.png", ("bad.list:3", "class id 3", "--num-classes")),
        ("99999999999999999999 x.png", ("bad.list:3", "99999999999999999999")),
        ("2", ("bad.list:3", "path")),
    ],
    ids=["missing", "empty", "comments", "negative", "word", "fraction", "too-large", "huge", "no-path"],
)
def test_list_with_a_mistake(site, pictures, flag, line, words):
    if line is not None:
        lines = pictures.lines(8)
        text = "\n".join([*lines[:2], line, *lines[2:]]) + "\n" if line[:1] not in ("", "#") else line
        (site / "bad.list").write_text(text)
    refuses(site, flag, "bad.list", "--num-classes", 3, "--resume", words=words)


@pytest.mark.parametrize(("images", "ranks"), [(1, 2), (4, 5)])
def test_fewer_images_than_ranks(site, pictures, images, ranks):
    pictures.write_list(site / "few.list", images)
    refuses(site, "--data", "few.list", "--resume", words=("few.list", str(images), str(ranks)), ranks=ranks)


def test_one_image_can_not_be_split(site, pictures):
    pictures.write_list(site / "one.list", 1)
    job = train(2, ["--data", "one.list", "--output-dir", "new"], site)
    assert_refused(job, "one.list", "1 image", "validation")


def test_as_many_images_as_ranks_will_do(site, pictures):
    pictures.write_list(site / "few.list", 2)
    train(2, [*BASE, "--data", "few.list", "--val", "few.list", "--num-classes", 3, "--output-dir", "new"], site).ok()
    assert len(steps(site / "new")) == 1


# Images


def _truncated(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def _empty(path: Path, good: Path) -> None:
    path.touch()


def _text(path: Path, good: Path) -> None:
    path.write_text("This is a letter, whatever its name says.\n" * 100)


def _folder(path: Path, good: Path) -> None:
    path.mkdir()


def _enormous(path: Path, good: Path) -> None:
    """400 megapixels of one bit each, some kilobytes as a file."""
    side = 20000
    rows = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    data = b"".join(rows.compress(row) for _ in range(side)) + rows.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""),
    )


BROKEN = {
    "missing": (lambda path, good: None, "is missing"),
    "truncated": (_truncated, "is truncated"),
    "zero-bytes": (_empty, "is empty"),
    "text": (_text, "is not a JPEG or PNG image"),
    "folder": (_folder, "is a folder"),
    "enormous": (_enormous, "has 400000000 pixels"),
}


@pytest.fixture(params=BROKEN)
def broken(request, site):
    """Breaks the image on line 7 of train.list: the reason that is expected."""
    make, reason = BROKEN[request.param]
    (image,) = site.glob("train 7.jpg")
    good = image.rename(site / "good.jpg")
    make(image, good)
    return reason


def test_broken_image_is_named_skipped_and_counted(site, broken):
    job = train(2, [*BASE, "--output-dir", "new"], site).ok()
    assert job.out.count("skipped: ") == 1
    line = next(line for line in job.out.splitlines() if line.startswith("skipped:"))
    for word in ("train.list:7", "train 7.jpg", broken):
        assert word in line
    assert "1 image" in job.out.split("epoch 1/1  train loss")[1]  # the count at the epoch's end
    assert [entry["skipped"] for entry in events(site / "new", "epoch")] == [1]
    assert job.err == ""
    assert job.ended - job.began < PROMPT + 10


def refuses_in_mid_run(site, *flags, words):
    """The mistake shows only while a run goes on; earlier checkpoints, though not the logs, stay as they were."""
    before = {name: value for name, value in hashes(site / "run").items() if name.endswith(".safetensors")}
    assert_refused(train(2, [*BASE, "--epochs", 2, "--output-dir", "run", "--resume", *flags], site), *words)
    # What was learned before the mistake showed is saved, so there may be a later state, which is now the latest.
    before.pop("latest.safetensors")
    assert before.items() <= hashes(site / "run").items()


def test_broken_image_is_an_error_where_that_is_asked_for(site, broken):
    refuses_in_mid_run(site, "--strict", words=("train.list:7", "train 7.jpg", broken))


def remove(site, name, count):
    """The last images of a list are gone."""
    images = sorted(site.glob(f"{name} *"), key=lambda path: int(path.stem.split()[1]))
    for image in images[-count:]:
        image.unlink()


@pytest.mark.parametrize(("count", "flags"), [(4, ()), (GOOD, ()), (GOOD, ("--max-bad", "1"))])
def test_too_many_broken_images(site, count, flags):
    remove(site, "train", count)
    refuses_in_mid_run(site, *flags, words=("train.list", "read"))


def test_broken_validation_image_is_skipped_and_counted(site):
    remove(site, "val", 1)
    job = train(2, [*BASE, "--output-dir", "new", "--max-bad", "0.5"], site).ok()
    assert job.out.count("skipped: ") == job.out.count(f"val.list:{VALIDATION}: ") == 1
    (epoch,) = events(site / "new", "epoch")
    assert (epoch["validation"]["images"], epoch["skipped"]) == (VALIDATION - 1, 1)


@pytest.mark.parametrize(
    ("count", "flags"), [(1, ("--strict",)), (4, ()), (VALIDATION, ())], ids=["strict", "most", "all"]
)
def test_broken_validation_images_that_are_too_many(site, count, flags):
    remove(site, "val", count)
    refuses_in_mid_run(site, *flags, words=("val.list", "val "))


def test_change_of_the_list_is_told_where_the_run_tells_everything(site, pictures):
    pictures.write_list(site / "other.list", GOOD)
    job = train(2, [*BASE, "--epochs", 2, "--output-dir", "run", "--resume", "--data", "other.list"], site).ok()
    assert "training images are not those" in job.out
    assert "training images are not those" in (site / "run" / "train.log").read_text()
    assert job.err == ""


def test_broken_sample_image(site):
    (site / "sample.png").touch()
    refuses(site, "--resume", "--sample", "sample.png", words=("--sample", "sample.png", "empty"))


# Checkpoints


def _cut(path: Path, state: Path) -> None:
    path.write_bytes(state.read_bytes()[: state.stat().st_size // 2])


def _flipped(path: Path, state: Path) -> None:
    data = bytearray(state.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def _flipped_in_header(path: Path, state: Path) -> None:
    data = bytearray(state.read_bytes())
    data[data.index(b"data_offsets")] ^= 1
    path.write_bytes(data)


def _foreign_text(path: Path, state: Path) -> None:
    path.write_text("weights = none\n" * 1000)


def _pickled(path: Path, state: Path) -> None:
    path.write_bytes(pickle.dumps({"features.0.weight": [0.0] * 1000}))


def _foreign_network(path: Path, state: Path) -> None:
    save_file({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, path)


def _of_another_shape(path: Path, state: Path) -> None:
    tensors = load_file(state)
    tensors["classifier.1.weight"] = np.zeros((7, 5), np.float32)
    save_file(tensors, path)


CHECKPOINTS = {
    "missing": (lambda path, state: None, "does not exist"),
    "cut": (_cut, "not a whole safetensors file"),
    "flipped": (_flipped, "damaged"),
    "flipped-in-header": (_flipped_in_header, "bad"),
    "text": (_foreign_text, "not a whole safetensors file"),
    "pickle": (_pickled, "not a whole safetensors file"),
    "other-network": (_foreign_network, "bad"),
    "other-shape": (_of_another_shape, "bad"),
}


@pytest.mark.parametrize("flag", ["--resume", "--load-pretrained"])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_bad_checkpoint(site, kind, flag):
    make, words = CHECKPOINTS[kind]
    make(site / "bad.safetensors", site / "run" / "latest.safetensors")
    (site / "run").rename(site / "run-before")
    output = "new" if flag == "--load-pretrained" else "run-before"
    before = hashes(site / "run-before")
    # Two threads: those of a team that is given up must not keep the process alive.
    flags = [flag, "bad.safetensors", "--output-dir", output, "--threads", 2]
    assert_refused(train(2, [*BASE, *flags], site), "bad.safetensors", words)
    assert hashes(site / "run-before") == before
    assert not (site / "new" / "metrics.jsonl").exists()


@pytest.mark.parametrize("flag", ["--resume", "--load-pretrained"])
def test_checkpoint_of_a_network_of_another_shape(site, flag):
    source = (flag, "run/latest.safetensors") if flag == "--load-pretrained" else (flag,)
    output = ("--output-dir", "new") if flag == "--load-pretrained" else ()
    refuses(site, *source, *output, "--num-classes", 4, words=("latest.safetensors", "shape", "classifier.6"))
    refuses(site, *source, *output, "--width", 0.125, words=("latest.safetensors", "shape", "--width"))


def test_weights_alone_are_no_run_to_resume(site):
    refuses(site, "--resume", "run/best.safetensors", words=("best.safetensors", "training state", "--load-pretrained"))


# Places to write


@pytest.mark.parametrize(
    "flags",
    [
        ("--output-dir", "train.list/run"),
        ("--output-dir", "train.list"),
        ("--output-dir", "/proc/run"),
        ("--resume", "--save", "train.list/weights.safetensors"),
        ("--resume", "--save", "/proc/weights.safetensors"),
        ("--resume", "--save", "run"),
    ],
    ids=" ".join,
)
def test_place_where_nothing_can_be_written(site, flags):
    place = flags[-1]
    lists = hashes(site)
    refuses(site, *flags, words=("cannot write", place.split("/")[1 if place[0] == "/" else 0]))
    assert hashes(site) == lists


def test_disk_that_fills_up(site):
    flags = [*BASE, "--output-dir", "run", "--resume", "--epochs", 3]
    before = hashes(site / "run")
    job = train(2, flags, site, fault="disk@1")
    assert_refused(job, "checkpoint-00000006", "No space left")
    after = hashes(site / "run")
    kept = [name for name in before if name.endswith(".safetensors")]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after.keys() - before.keys() == set()  # nothing half-written is left


# Flags


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--bogus", ("--bogus",)),
        ("--epochs 0", ("--epochs", "0", "at least 1")),
        ("--epochs many", ("--epochs", "many")),
        ("--lr -1", ("--lr", "-1", "more than 0")),
        ("--lr nan", ("--lr", "nan")),
        ("--lr inf", ("--lr", "inf")),
        ("--weight-decay inf", ("--weight-decay", "inf")),
        ("--momentum 1", ("--momentum", "1")),
        ("--dropout 1", ("--dropout", "1")),
        ("--width inf", ("--width", "inf")),
        ("--image-size 10", ("--image-size", "10")),
        ("--batch-size 0", ("--batch-size", "0")),
        ("--global-batch 8 --batch-size 4", ("--global-batch", "--batch-size")),
        ("--crop round", ("--crop", "round", "random-resized")),
        ("--lr-scheduler magic", ("--lr-scheduler", "magic", "cosine")),
        ("--val-fraction 1", ("--val-fraction", "1")),
        ("--save-every -1", ("--save-every", "-1")),
        ("--num-classes 0", ("--num-classes", "0")),
        ("--seed -1", ("--seed", "-1")),
        ("--class-names none.txt", ("none.txt", "doesn't exist")),
        ("--config none.toml", ("--config", "none.toml")),
        ("--config train.list", ("--config", "train.list")),
        ("--config bogus.toml", ("bogus",)),
        ("--config type.toml", ("epochs", "many")),
    ],
)
def test_flag_with_a_mistake(site, flags, words):
    (site / "bogus.toml").write_text("bogus = 1\n")
    (site / "type.toml").write_text('epochs = "many"\n')
    refuses(site, *flags.split(), words=words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data val.list", ("--load",)),
        ("--load none.safetensors", ("none.safetensors", "does not exist")),
        ("--load run/best.safetensors --data none.list", ("none.list", "doesn't exist")),
        ("--load run/best.safetensors --data large.list", ("large.list:1", "class id 3")),
        ("--load run/best.safetensors --data gone.list", ("gone.list:1", "missing")),
        ("--load run/best.safetensors --data gone-1.list --strict", ("gone-1.list:7", "missing")),
        ("--load run/best.safetensors --data val.list --batch-size 0", ("--batch-size", "0")),
    ],
)
def test_evaluation_with_a_mistake(site, pictures, flags, words):
    (site / "large.list").write_text("3 x.png\n")
    (site / "gone.list").write_text("0 x.png\n")
    (site / "gone-1.list").write_text("\n".join([*pictures.lines(6), "0 gone.png"]) + "\n")
    job = on_ranks(2, ["-m", "alexnet_dist.evaluate", *flags.split()], site)
    assert_refused(job, *words, program="alexnet-evaluate")


# What goes wrong in mid-run


@pytest.mark.parametrize("fault", ["exception@2", "thread@2", "decoder@5", "exit@2", "kill@2"])
def test_failure_of_one_rank_ends_all(site, fault):
    before = hashes(site / "run")
    flags = [*BASE, "--output-dir", "run", "--resume", "--epochs", 100, "--keep", 100]
    with start_training(2, flags, site, fault) as job:
        job.until((site / "struck").exists, "the fault has struck")
        job.wait(2 * PROMPT)
    assert job.ended - (site / "struck").stat().st_mtime < PROMPT
    assert job.code != 0
    if fault.split("@")[0] in ("exception", "thread", "decoder"):
        assert job.err.count("alexnet-train: rank ") == 1, str(job)
        assert "alexnet-train: rank 1 of 2 failed" in job.err
        assert job.err.count("RuntimeError: planted") == 1, str(job)
    after = hashes(site / "run")
    # While another thread's exception ends the ranks, their main threads may finish an epoch and find a better best.
    kept = ("checkpoint-",) if fault.startswith("thread") else ("checkpoint-", "best.", "latest.")
    for name in before:
        if name.startswith(kept):
            assert after[name] == before[name]


def test_divergence_is_an_error_and_no_checkpoint_of_it_is_kept(site):
    """One step an epoch: the first loss is still a number, but no weight after it."""
    flags = ["--global-batch", GOOD, "--lr", "1e30", "--epochs", 5, "--output-dir", "new", "--threads", 1]
    job = train(2, [*BASE, *flags], site)
    assert_refused(job, "loss", "--lr", "1e+30")
    for state in (site / "new").glob("*.safetensors"):
        for name, tensor in load_file(state).items():
            assert np.isfinite(tensor).all(), (state.name, name)
