"""Lists with a mistake, or of too few images, are refused before anything is changed; another list is only told."""

import pytest
from launcher import assert_refused, needs_mpirun, steps, train
from refusals import BASE, GOOD, refuses

pytestmark = needs_mpirun


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
    (site / "val.list").unlink()  # it would be taken
    job = train(2, ["--data", "one.list", "--output-dir", "new"], site)
    assert_refused(job, "one.list", "1 image", "validation")


def test_as_many_images_as_ranks_will_do(site, pictures):
    pictures.write_list(site / "few.list", 2)
    train(2, [*BASE, "--data", "few.list", "--val", "few.list", "--num-classes", 3, "--output-dir", "new"], site).ok()
    assert len(steps(site / "new")) == 1


def test_change_of_the_list_is_told_where_the_run_tells_everything(site, pictures):
    pictures.write_list(site / "other.list", GOOD)
    job = train(2, [*BASE, "--epochs", 2, "--output-dir", "run", "--resume", "--data", "other.list"], site).ok()
    assert "training images are not those" in job.out
    assert "training images are not those" in (site / "run" / "train.log").read_text()
    assert job.err == ""
