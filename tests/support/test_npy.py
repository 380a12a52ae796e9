"""Rows that are appended to an .npy file."""

import numpy as np
import pytest

from alexnet_dist.support.npy import RowsWriter


@pytest.mark.parametrize("counts", [(1,), (3, 0, 9), (999, 1)])  # the number gains digits after the header is written
def test_numpy_reads_what_is_written(tmp_path, counts, rng):
    parts = [rng.standard_normal((2, 3, count)).astype(np.float32).transpose(2, 0, 1) for count in counts]
    with open(tmp_path / "a.npy", "w+b") as file:
        writer = RowsWriter(file)
        for part in parts:
            writer.add(part)
        writer.finish()
    assert writer.count == sum(counts)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.concatenate(parts))
