"""What is wrong with a sample image is said once, whether it is the image's fault or the storage's."""

import errno

import pytest
from small import SMALL

from alexnet_dist.data.decode import ImageError
from alexnet_dist.errors import UserError
from alexnet_dist.training import samples


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EIO, "Input/output error"), "--sample cat.png can't be read: Input/output error"),
        (OSError(errno.ESTALE, "Stale file handle"), "--sample cat.png can't be read: Stale file handle"),
        (ImageError("is truncated"), "--sample cat.png is truncated"),
    ],
    ids=str,
)
def test_a_sample_that_can_t_be_read(monkeypatch, error, text):
    def load(*_):
        raise error

    monkeypatch.setattr(samples, "load_for_evaluation", load)
    with pytest.raises(UserError) as caught:
        samples.Samples(("cat.png",), SMALL, rank=0)
    assert str(caught.value) == text
    assert caught.value.exit_code == 2
