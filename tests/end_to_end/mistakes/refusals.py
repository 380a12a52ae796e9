"""What the tests of mistakes share: the flags of a run without any, and how a mistake is to be refused."""

from hashing import hashes
from launcher import assert_refused, train

GOOD, VALIDATION = 24, 6  # images of train.list and val.list; 3 steps of 8
BASE = ("--data", "train.list", "--val", "val.list", "--epochs", "1", "--global-batch", "8", "--lr", "0.001")


def refuses(site, *flags, words, ranks=2):
    """The mistake is refused in one message, and every file of the earlier run stays as it was."""
    before = hashes(site / "run")
    assert_refused(train(ranks, [*BASE, "--output-dir", "run", *flags], site), *words)
    assert hashes(site / "run") == before
