"""An .npy file that is written row by row, of arrays larger than the memory."""

from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray


class RowsWriter:
    """Writes float32 rows of one shape to a file that is open for writing; `finish` says at its start how many they are."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._row: tuple[int, ...] | None = None
        self.count = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Appends rows [n, ...], C-contiguous."""
        if self._row is None:
            self._row = rows.shape[1:]
            self._write_header()
        self._file.write(np.ascontiguousarray(rows, "<f4").data)
        self.count += len(rows)

    def finish(self) -> None:
        """Completes the file; there must have been a call of `add`."""
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves room for the first axis to grow: the header's length doesn't depend on the number.
        assert self._row is not None
        shape = (self.count, *self._row)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        npy_format.write_array_header_1_0(self._file, header)
