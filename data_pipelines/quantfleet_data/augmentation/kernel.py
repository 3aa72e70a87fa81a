"""The compiled changes, window by window in place. Chance is counted, not drawn: number i of a window is a hash of its key and i.

Shapes: N windows, L look-back bars, F features, K label columns.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["bootstrap", "jitter", "mix_weights", "mixup", "pick", "scale", "slice_window", "time_warp"]

Windows: TypeAlias = npt.NDArray[np.float32]
Keys: TypeAlias = npt.NDArray[np.uint64]
Bools: TypeAlias = npt.NDArray[np.bool_]
_BELL = (3.0 / (2.0**32 - 1.0)) ** 0.5  # 1 / deviation of the sum of four uniforms on 0 ... 65535


@njit(cache=True, nogil=True)
def _hash(key: Any, i: int) -> Any:
    x = key + np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def _uniform(key: Any, i: int) -> Any:
    """Above 0 and at most 1, so that its logarithm is finite."""
    return (np.float64(_hash(key, i) >> np.uint64(11)) + 1.0) * 2.0**-53


@njit(cache=True, nogil=True)
def _normal(key: Any, i: int) -> Any:
    """Box and Muller (1958)."""
    return np.sqrt(-2.0 * np.log(_uniform(key, 2 * i))) * np.cos(2.0 * np.pi * _uniform(key, 2 * i + 1))


@njit(cache=True, nogil=True)
def _bell(key: Any, i: int) -> Any:
    """Mean 0, deviation 1: the sum of the four 16-bit quarters of one hash. Source: Irwin (1927), Hall (1927)."""
    x = _hash(key, i)
    low = np.uint64(0xFFFF)
    total = (x & low) + ((x >> np.uint64(16)) & low) + ((x >> np.uint64(32)) & low) + (x >> np.uint64(48))
    return (np.float64(total) - 131070.0) * _BELL


@njit(cache=True, nogil=True)
def _integer(key: Any, i: int, below: int) -> Any:
    return min(np.int64(_uniform(key, i) * below), below - 1)


@njit(cache=True, nogil=True)
def _resample(x_LF: Windows, place: float, out_F: Windows) -> None:
    """The row at a place between two rows, straight between them."""
    L, F = x_LF.shape
    low = min(max(np.int64(np.floor(place)), 0), L - 1)
    high = min(low + 1, L - 1)
    share = np.float32(min(max(place - low, 0.0), 1.0))
    for f in range(F):
        out_F[f] = x_LF[low, f] + share * (x_LF[high, f] - x_LF[low, f])


@njit(cache=True, nogil=True)
def jitter(x_NLF: Windows, key_N: Keys, changed_N: Bools, sigma: float, scale_F: Windows) -> None:
    N, L, F = x_NLF.shape
    for n in range(N):
        if changed_N[n]:
            for t in range(L):
                for f in range(F):
                    x_NLF[n, t, f] += np.float32(sigma * _bell(key_N[n], t * F + f)) * scale_F[f]


@njit(cache=True, nogil=True)
def scale(x_NLF: Windows, key_N: Keys, changed_N: Bools, sigma: float, shared: bool, centre_F: Windows) -> None:
    N, L, F = x_NLF.shape
    for n in range(N):
        if changed_N[n]:
            for f in range(F):
                factor = np.float32(np.exp(sigma * _normal(key_N[n], 0 if shared else f)))
                for t in range(L):
                    x_NLF[n, t, f] = centre_F[f] + (x_NLF[n, t, f] - centre_F[f]) * factor


@njit(cache=True, nogil=True)
def time_warp(x_NLF: Windows, key_N: Keys, changed_N: Bools, sigma: float, knots: int) -> None:
    N, L, F = x_NLF.shape
    was_LF, speed, path_L = np.empty((L, F), np.float32), np.empty(knots), np.empty(L)
    for n in range(N):
        if changed_N[n]:
            was_LF[:] = x_NLF[n]
            for k in range(knots):
                speed[k] = np.exp(sigma * _normal(key_N[n], k))
            path_L[0] = 0.0
            for t in range(1, L):
                place = (t - 0.5) / (L - 1) * (knots - 1)
                left = min(int(place), knots - 2)
                path_L[t] = path_L[t - 1] + speed[left] + (place - left) * (speed[left + 1] - speed[left])
            for t in range(1, L - 1):
                _resample(was_LF, path_L[t] / path_L[L - 1] * (L - 1), x_NLF[n, t])


@njit(cache=True, nogil=True)
def slice_window(x_NLF: Windows, key_N: Keys, changed_N: Bools, least_share: float, at_end: bool) -> None:
    N, L, F = x_NLF.shape
    was_LF = np.empty((L, F), np.float32)
    for n in range(N):
        if changed_N[n]:
            was_LF[:] = x_NLF[n]
            span = (L - 1) * (least_share + (1.0 - least_share) * _uniform(key_N[n], 0))
            first = L - 1 - span
            if not at_end:
                first *= _uniform(key_N[n], 1)
            for t in range(L):
                _resample(was_LF, first + span * t / (L - 1), x_NLF[n, t])


@njit(cache=True, nogil=True)
def bootstrap(x_NLF: Windows, key_N: Keys, changed_N: Bools, mean_block: float, keep_last: int) -> None:
    N, L, F = x_NLF.shape
    was_LF, early = np.empty((L, F), np.float32), L - keep_last
    for n in range(N):
        if changed_N[n]:
            was_LF[:] = x_NLF[n]
            place = 0
            for t in range(early):
                if t == 0 or _uniform(key_N[n], 2 * t) <= 1.0 / mean_block:
                    place = _integer(key_N[n], 2 * t + 1, early)
                else:
                    place = (place + 1) % early
                x_NLF[n, t] = was_LF[place]


@njit(cache=True, nogil=True)
def pick(key_N: Keys, below: int) -> npt.NDArray[np.int64]:
    """A number from 0 to below - 1 for each window."""
    out_N = np.empty(key_N.size, np.int64)
    for n in range(key_N.size):
        out_N[n] = _integer(key_N[n], 0, below)
    return out_N


@njit(cache=True, nogil=True)
def mix_weights(key_N: Keys, alpha: float) -> npt.NDArray[np.float64]:
    """The larger of w and 1 - w, w of a Beta(alpha, alpha): Johnk (1964), powers of uniforms until they fit."""
    out_N = np.empty(key_N.size)
    for n in range(key_N.size):
        i = 1
        while True:
            a, b = _uniform(key_N[n], i) ** (1.0 / alpha), _uniform(key_N[n], i + 1) ** (1.0 / alpha)
            i += 2
            if 0.0 < a + b <= 1.0:
                out_N[n] = max(a, b) / (a + b)
                break
    return out_N


@njit(cache=True, nogil=True)
def mixup(
    x_NLF: Windows, y_NK: Windows, other_x_NLF: Windows, other_y_NK: Windows, changed_N: Bools, weight_N: Any
) -> None:
    N, L, F = x_NLF.shape
    for n in range(N):
        if changed_N[n]:
            own, other = np.float32(weight_N[n]), np.float32(1.0 - weight_N[n])
            for t in range(L):
                for f in range(F):
                    x_NLF[n, t, f] = own * x_NLF[n, t, f] + other * other_x_NLF[n, t, f]
            for k in range(y_NK.shape[1]):
                y_NK[n, k] = own * y_NK[n, k] + other * other_y_NK[n, k]
