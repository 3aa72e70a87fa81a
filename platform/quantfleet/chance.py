"""Chance that can be repeated: numbers that look random and depend on a key alone, not on how many were drawn before.

What is decided by a key (seed, epoch, chunk, row, ...) is decided alike in every process and in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["random_keys", "uniforms"]

Keys = npt.NDArray[np.uint64]


def random_keys(*parts: int | npt.NDArray[Any]) -> Keys:
    """Return a well-mixed 64-bit number for each tuple of whole numbers.

    Args:
        parts: whole numbers, and arrays of them of one shape (N,); order matters.
    Returns: shape (N,), or (1,) where no part is an array.
    Source: the finaliser of splitmix64, Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators".
    """
    key = np.zeros(1, np.uint64)
    for part in parts:
        whole = (
            np.full(1, part % 2**64, np.uint64) if isinstance(part, int) else part.astype(np.int64).astype(np.uint64)
        )
        key = _mix(key + whole)
    return key


def uniforms(key_N: Keys) -> npt.NDArray[np.float64]:
    """Return numbers of [0, 1), one for each key, that do not show what else the key is used for."""
    whole_N = _mix(key_N ^ np.uint64(0xA5A5A5A5A5A5A5A5)) >> np.uint64(11)
    return whole_N.astype(np.float64) * 2.0**-53


def _mix(x: Keys) -> Keys:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
