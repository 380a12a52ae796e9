"""The reader of MATLAB's files: against a writer of the tests, and against SciPy's."""

import io

import numpy as np
import pytest
from ilsvrc import meta_mat, synsets

from alexnet_dist.errors import UserError
from alexnet_dist.preparation.matlab import read_struct_array


@pytest.mark.parametrize("order", ["<", ">"])
def test_structs_of_the_tests_writer(order):
    assert read_struct_array(meta_mat(synsets(), order), "synsets") == synsets()


@pytest.mark.parametrize("compressed", [False, True])
def test_structs_of_scipys_writer(compressed):
    scipy_io = pytest.importorskip("scipy.io")
    fields = [("ILSVRC2012_ID", object), ("words", object), ("children", object), ("empty", object)]
    array = np.empty((3, 1), fields)
    for number in range(3):
        children = np.arange(number + 2.0)[None]
        array[number, 0] = (float(number), "kit fox, Vulpes \u00e9", children, np.zeros((0, 0)))
    file = io.BytesIO()
    scipy_io.savemat(file, {"other": np.eye(3), "synsets": array, "text": "abc"}, do_compression=compressed)
    found = read_struct_array(file.getvalue(), "synsets")
    assert [one["ILSVRC2012_ID"] for one in found] == [0, 1, 2]
    assert {one["words"] for one in found} == {"kit fox, Vulpes \u00e9"}
    assert [one["children"].tolist() for one in found] == [[[0, 1]], [[0, 1, 2]], [[0, 1, 2, 3]]]
    assert found[0]["empty"].size == 0


def test_what_is_no_such_file():
    good = meta_mat(synsets())
    with pytest.raises(UserError, match="has no struct array 'other'"):
        read_struct_array(good, "other")
    with pytest.raises(UserError, match="is no MATLAB file"):
        read_struct_array(b"HDF" * 100, "synsets")
    for length in range(140, len(good), 97):
        with pytest.raises(UserError, match="damaged"):
            read_struct_array(good[:length], "synsets")
