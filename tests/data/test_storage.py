"""Storage that fails is not a broken image: it is tried again, for as long as one has patience."""

import errno
import os
import socket
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from alexnet_dist.data import storage
from alexnet_dist.data.decode import ImageError, decode
from alexnet_dist.data.image_list import read_image_list
from alexnet_dist.data.loader import Interrupted, Loader
from alexnet_dist.data.shards import read_shards
from alexnet_dist.data.storage import Patience, StorageFailure
from alexnet_dist.preparation.pack import pack

OUTAGES = [OSError(number, os.strerror(number)) for number in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)]


@pytest.fixture
def images(tmp_path):
    """A list of three images in a folder of their own, and one that is missing."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "images.list").write_text("0 0.png\n0 1.png\n0 gone.png\n0 2.png\n")
    return read_image_list(folder / "images.list")


def loader(images, load, patience=None, **options):
    return Loader(images, load=load, global_batch=4, shape=(1, 1, 1), patience=patience, **options)


def red(images):
    """A loader's `load`: the red value of an image."""

    def load(index, epoch, out):
        out[...] = decode(lambda: images.open(index)).getpixel((0, 0))[0]

    return load


@pytest.mark.parametrize("error", [*OUTAGES, MemoryError()], ids=str)
def test_what_is_wrong_with_the_system_is_not_a_broken_image(error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        decode(fail)
    assert caught.value is error


def test_reading_is_tried_again_and_said_once(images):
    attempts, said = [0] * len(images), []

    def load(index, epoch, out):
        attempts[index] += 1
        if attempts[index] < 3:
            raise OUTAGES[index]
        while min(attempts) < 3:  # none is read before all have failed: that would be the outage's end
            time.sleep(0.01)
        red(images)(index, epoch, out)

    with loader(images, load, Patience(60, said.append), workers=4) as batches:
        (batch,) = batches.batches(0)
    assert batch.images.ravel().tolist() == [0, 1, 0, 2]
    assert [message.split(" is ")[1] for message in batch.broken] == ["missing"]
    assert attempts == [3] * 4
    assert len(said) == 2
    assert "Trying again for up to 60 s (--io-patience)" in said[0]
    assert said[1].startswith("images can be read again, after ")


def test_patience_ends(images):
    def load(index, epoch, out):
        raise OUTAGES[0]

    with loader(images, load, Patience(0.5)) as batches, pytest.raises(StorageFailure) as caught:
        next(batches.batches(0))
    assert "images.list:1: " in str(caught.value)
    assert "can't be read: Input/output error" in str(caught.value)
    assert "--io-patience" in str(caught.value)
    assert caught.value.exit_code == 75


def test_patience_is_that_of_an_outage_not_of_each_image(tmp_path):
    """Many images, of which few are tried at a time."""
    (tmp_path / "images.list").write_text("".join(f"0 {number}.png\n" for number in range(64)))
    release = threading.Event()

    def load(index, epoch, out):
        if index == 0:  # it hangs, and nobody waits for it longer than for the others
            release.wait(5)
        raise OUTAGES[0]

    many = read_image_list(tmp_path / "images.list")
    with Loader(many, load=load, global_batch=32, shape=(1, 1, 1), workers=2, patience=Patience(1)) as batches:
        start = time.monotonic()
        with pytest.raises(StorageFailure, match="after the first failure"):
            next(batches.batches(0))
        release.set()
    assert time.monotonic() - start < 12  # 31 images, one after the other and 1 s each


def test_patience_begins_anew_when_an_image_has_been_read(monkeypatch):
    patience, failures, now = Patience(0.5), iter([True, True, False] * 4), [0.0]

    def read():
        if next(failures):
            raise OUTAGES[0]

    def pause(seconds):
        now[0] += seconds

    monkeypatch.setattr(storage, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(patience.closing, "wait", pause)
    for _ in range(4):
        patience.persist(read, lambda: "an image")
    assert now[0] > patience.seconds


def test_a_signal_ends_waiting_for_images(images):
    """And closing the loader ends the threads that would try for minutes."""
    stopped = threading.Event()

    def load(index, epoch, out):
        stopped.set()
        raise OUTAGES[0]

    with loader(images, load, Patience(600, stop=stopped.is_set), workers=2) as batches, pytest.raises(Interrupted):
        next(batches.batches(0))


def test_an_image_that_takes_very_long_is_named(images):
    said, release = [], threading.Event()

    def load(index, epoch, out):
        if index == 1:
            release.wait(60)
        if index == 3:  # image 0 has been read, whichever thread had it
            patience.seconds = 0.1
        out.fill(index)

    def say(text):
        said.append(text)
        release.set()

    patience = Patience(0, say)
    with loader(images, load, patience, workers=2) as batches:
        next(batches.batches(0))
    assert said == [f"still waiting for {images.where(1)}"]


def test_a_missing_image_is_broken_but_a_missing_folder_is_an_outage(images, tmp_path):
    with pytest.raises(ImageError, match="is missing"):
        decode(lambda: images.open(2))
    images.source.parent.rename(tmp_path / "away")
    with pytest.raises(OSError, match="is gone; is its file system mounted") as caught:
        decode(lambda: images.open(0))
    assert caught.value.errno == errno.ESTALE
    (tmp_path / "data").mkdir()  # what an unmounted file system leaves behind
    with pytest.raises(OSError, match="is empty; is its file system mounted"):
        decode(lambda: images.open(0))


@pytest.fixture
def apart():
    """A list, and folders of images beside it that anybody may read."""
    with tempfile.TemporaryDirectory() as name:
        for kind in ("cats", "dogs"):
            (Path(name) / "pics" / kind).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (9, 9)).save(Path(name) / "pics" / kind / f"{number}.png")
        (Path(name) / "images.list").write_text(
            "".join(f"0 pics/{kind}/{n}.png\n" for kind in ("cats", "dogs") for n in "01")
        )
        for folder in (Path(name), *Path(name).rglob("*/")):
            folder.chmod(0o755)
        yield read_image_list(Path(name) / "images.list")


@pytest.mark.parametrize("gone", ["pics", "pics/cats"])
def test_a_folder_that_vanishes_after_it_was_read_from_is_an_outage(apart, gone):
    folder = apart.source.parent / gone
    decode(lambda: apart.open(0))
    folder.rename(apart.source.parent / "away")
    for index in {"pics": (0, 1, 2), "pics/cats": (0, 1)}[gone]:  # of the dogs, none has been read yet
        with pytest.raises(OSError, match=f"the folder {folder}.* is gone; is its file system mounted"):
            decode(lambda index=index: apart.open(index))
    (apart.source.parent / "away").rename(folder)
    apart.path(1).unlink()
    with pytest.raises(ImageError, match="is missing"):
        decode(lambda: apart.open(1))


def test_a_folder_that_was_never_there_makes_broken_images(apart):
    apart.path(0).parent.rename(apart.source.parent / "away")
    with pytest.raises(ImageError, match="is missing"):
        decode(lambda: apart.open(0))


@contextmanager
def nobody():
    """Root may read everything."""
    if root := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_that_may_not_be_read_any_more_is_an_outage(apart):
    first, other = apart.path(0), apart.path(2).parent
    decode(lambda: apart.open(0))
    first.chmod(0)  # the file alone
    with nobody(), pytest.raises(ImageError, match="can't be read: Permission denied"):
        decode(lambda: apart.open(0))
    for folder in (first.parent, other):
        folder.chmod(0)
    with nobody(), pytest.raises(OSError, match="was readable, and is not any more") as caught:
        decode(lambda: apart.open(0))
    assert caught.value.errno == errno.ESTALE
    with nobody(), pytest.raises(ImageError, match="can't be read: Permission denied"):
        decode(lambda: apart.open(2))  # never was
    for folder in (first.parent, other):
        folder.chmod(0o755)


def test_a_shard_that_vanishes_is_an_outage(images, tmp_path):
    images.source.write_text("0 0.png\n0 1.png\n0 2.png\n")
    pack(images.source, tmp_path / "shards")
    shards = read_shards(tmp_path / "shards")
    shard = shards.shard(0)
    shard.rename(tmp_path / "away.tar")
    with pytest.raises(OSError, match="is gone") as caught:
        shards.open(0)
    assert caught.value.errno == errno.ESTALE
    (tmp_path / "away.tar").rename(shard)
    assert decode(lambda: shards.open(2)).getpixel((0, 0)) == (2, 0, 0)


def test_only_regular_files_are_opened(images):
    """A FIFO would wait for a writer, /dev/zero would never end."""
    folder = images.source.parent
    os.mkfifo(folder / "fifo.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "socket.png"))
    start = time.monotonic()
    for name, reason in (
        ("fifo", "is a FIFO, not an image"),
        ("device", "is a device, not an image"),
        ("folder", "is a folder, not an image"),
        ("loop", "can't be read: Too many levels"),
        ("socket", "can't be read: No such device"),
    ):
        with pytest.raises(ImageError, match=reason):
            decode(folder / f"{name}.png")
    listening.close()
    assert time.monotonic() - start < 60
