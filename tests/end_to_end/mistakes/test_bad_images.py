"""Broken images are named, skipped and counted. With --strict, or if they are too many, they end the run."""

import struct
import zlib
from pathlib import Path

import pytest
from hashing import hashes
from launcher import PROMPT, assert_refused, epoch_results, needs_mpirun, train
from refusals import BASE, GOOD, VALIDATION, refuses

pytestmark = needs_mpirun


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
    assert [entry["skipped"] for entry in epoch_results(site / "new")] == [1]
    assert job.err == ""
    assert job.ended - job.began < PROMPT


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
    (epoch,) = epoch_results(site / "new")
    assert (epoch["val_images"], epoch["skipped"]) == (VALIDATION - 1, 1)


@pytest.mark.parametrize(
    ("count", "flags"), [(1, ("--strict",)), (4, ()), (VALIDATION, ())], ids=["strict", "most", "all"]
)
def test_broken_validation_images_that_are_too_many(site, count, flags):
    remove(site, "val", count)
    refuses_in_mid_run(site, *flags, words=("val.list", "val "))


def test_broken_sample_image(site):
    (site / "sample.png").touch()
    refuses(site, "--resume", "--sample", "sample.png", words=("--sample", "sample.png", "empty"))
