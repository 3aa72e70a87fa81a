"""Memory that begins on a cache line."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantfleet_data.features.kernels.codes import LANES

__all__ = ["aligned_bytes", "empty_rows"]

_CACHE_LINE = 64


def aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    raw: npt.NDArray[np.uint8] = np.empty(size + _CACHE_LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + size]


def empty_rows(rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Float64 of shape (rows, columns); every row begins on a cache line, so a large result can go past the caches."""
    width = -(-columns // LANES) * LANES
    return aligned_bytes(8 * rows * width).view(np.float64).reshape(rows, width)[:, :columns]
