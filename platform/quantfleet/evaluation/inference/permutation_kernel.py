"""The compiled loops of permutation tests; resample r has a random stream of its own."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["count_flipped", "count_permuted"]

Doubles: TypeAlias = npt.NDArray[np.float64]
Keys: TypeAlias = npt.NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _mixed(x: Any) -> Any:
    """The finaliser of splitmix64, Steele, Lea and Flood (2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc"})
def count_flipped(value_T: Doubles, key_R: Keys, bound: float) -> int:
    """Resamples whose sum under random signs is at least the bound; one random word gives 64 signs."""
    count = 0
    for r in range(len(key_R)):
        state, total = key_R[r], 0.0
        for first in range(0, len(value_T), 64):
            state += np.uint64(_GOLDEN)
            signs = _mixed(state)
            for i in range(min(64, len(value_T) - first)):
                up = np.float64((signs >> np.uint64(i)) & np.uint64(1))
                total += value_T[first + i] * (2.0 * up - 1.0)
        count += total >= bound
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def count_permuted(forecast_N: Doubles, realised_N: Doubles, block: int, key_R: Keys, bound: float) -> int:
    """Resamples whose product sum, blocks of the forecast in random order, is at least the bound."""
    blocks = len(forecast_N) // block
    order = np.empty(blocks, np.int64)
    count = 0
    for r in range(len(key_R)):
        state = key_R[r]
        for b in range(blocks):
            order[b] = b
        for b in range(blocks - 1, 0, -1):  # Fisher and Yates
            state += np.uint64(_GOLDEN)
            other = np.int64(((_mixed(state) >> np.uint64(32)) * np.uint64(b + 1)) >> np.uint64(32))
            order[b], order[other] = order[other], order[b]
        total = 0.0
        for b in range(blocks):
            there, here = order[b] * block, b * block
            for i in range(block):
                total += forecast_N[there + i] * realised_N[here + i]
        count += total >= bound
    return count
