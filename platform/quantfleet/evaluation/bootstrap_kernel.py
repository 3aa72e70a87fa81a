"""The compiled draws of the bootstrap. Resample r has a random stream of its own, so that who draws it does not matter.

Shapes: T bars, K paired series, W = 2K columns, R resamples, L lanes of the generator, B entries of the table of lengths, N blocks.

A Sharpe ratio needs sums of returns and of their squares only. Stationary blocks take them as differences of prefix sums, so that a
block costs the same however long it is. Single bars are gathered, by places that L generators draw side by side.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["draw_bars", "draw_blocks", "length_table"]

Doubles: TypeAlias = npt.NDArray[np.float64]
Keys: TypeAlias = npt.NDArray[np.uint64]
Words: TypeAlias = npt.NDArray[np.uint32]

_ENTRIES = 256  # of the table of lengths; one byte chooses
_BEYOND = _ENTRIES - 1  # entry 0: at least this long, and then as long again as a new draw says
_LANES = 32  # generators side by side
_GOLDEN = 0x9E3779B97F4A7C15
_LOW = 0xFFFFFFFF


def length_table(block_bars: float) -> tuple[Words, Words]:
    """Alias table of geometric lengths with this mean: keep entry i where 24 random bits are below the first, else take the second.

    Entry 0 stands for a length beyond the table; what is left of a geometric length has the same distribution again.

    Source: Walker (1977), "An Efficient Method for Generating Discrete Random Variables", ACM TOMS 3(3), in Vose's (1991) form.
    """
    going_on = 1.0 - 1.0 / block_bars
    weight = np.append(going_on**_BEYOND, going_on ** np.arange(_BEYOND) / block_bars) * _ENTRIES
    keep, other = np.ones(_ENTRIES), np.arange(_ENTRIES)
    poor = [i for i in range(_ENTRIES) if weight[i] < 1.0]
    rich = [i for i in range(_ENTRIES) if weight[i] >= 1.0]
    while poor and rich:
        small, large = poor.pop(), rich.pop()
        keep[small], other[small] = weight[small], large
        weight[large] -= 1.0 - weight[small]
        (poor if weight[large] < 1.0 else rich).append(large)
    return np.round(keep * 2.0**24).astype(np.uint32), other.astype(np.uint32)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _mixed(x: Any) -> Any:
    """The finaliser of splitmix64, Steele, Lea and Flood (2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _entry(u: Any, keep_B: Words, other_B: Words) -> Any:
    """A table entry from the low 32 bits. Computed, not branched to: a branch would be guessed wrong half of the time."""
    low = u & np.uint64(_LOW)
    i = low & np.uint64(_ENTRIES - 1)
    first, second = np.int64(i), np.int64(other_B[i])
    return second + (first - second) * np.int64(np.uint32(low >> np.uint64(8)) < keep_B[i])


@njit(cache=True, nogil=True, error_model="numpy")
def _blocks(key: Any, bars: int, keep_B: Words, other_B: Words, start_N: Words, stop_N: Words) -> Any:
    """Fill in where blocks start and stop until they hold as many bars as the series, and return how many there are.

    A block that wraps around counts as two.
    """
    state, filled, count = key, 0, 0
    while filled < bars:
        state += np.uint64(_GOLDEN)
        u = _mixed(state)
        start = np.int64(((u >> np.uint64(32)) * np.uint64(bars)) >> np.uint64(32))
        length = _entry(u, keep_B, other_B)
        if length == 0:
            length = _BEYOND
            while length < bars - filled:
                state += np.uint64(_GOLDEN)
                more = _entry(_mixed(state), keep_B, other_B)
                if more > 0:
                    length += more
                    break
                length += _BEYOND
        length = min(length, bars - filled)
        filled += length
        stop = start + length
        if stop > bars:
            start_N[count], stop_N[count] = 0, stop - bars
            count += 1
            stop = bars
        start_N[count], stop_N[count] = start, stop
        count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def draw_blocks(prefix_TW: Doubles, keep_B: Words, other_B: Words, key_R: Keys, sum_RW: Doubles) -> None:
    """Sums over resamples of blocks that start anywhere with equal chance and wrap around at the end.

    Args:
        prefix_TW: T + 1 rows of prefix sums, the first 0: of each series and, beside it, of its squares. All take the same blocks.
        sum_RW: filled; K sums, then K sums of squares.
    """
    bars, width = prefix_TW.shape[0] - 1, prefix_TW.shape[1] // 2
    start_N, stop_N = np.empty(2 * bars, np.uint32), np.empty(2 * bars, np.uint32)
    for r in range(len(key_R)):
        count = _blocks(key_R[r], bars, keep_B, other_B, start_N, stop_N)
        for k in range(width):
            first, second = 0.0, 0.0
            for n in range(count):
                start, stop = start_N[n], stop_N[n]
                first += prefix_TW[stop, 2 * k] - prefix_TW[start, 2 * k]
                second += prefix_TW[stop, 2 * k + 1] - prefix_TW[start, 2 * k + 1]
            sum_RW[r, k], sum_RW[r, width + k] = first, second


@njit(cache=True, nogil=True, error_model="numpy")
def _seed_lanes(key: Any, state_4L: Words) -> None:
    for lane in range(_LANES):
        u = _mixed(key + np.uint64(2 * lane + 1) * np.uint64(_GOLDEN))
        v = _mixed(key + np.uint64(2 * lane + 2) * np.uint64(_GOLDEN))
        state_4L[0, lane], state_4L[1, lane] = np.uint32(u), np.uint32(u >> np.uint64(32))
        state_4L[2, lane], state_4L[3, lane] = np.uint32(v), np.uint32(v >> np.uint64(32))


@njit(cache=True, nogil=True, error_model="numpy")
def _draw_places(state_4L: Words, bars: int, place_SL: Words) -> None:
    """Places below `bars`, L at a time. Source: xoshiro128+, Blackman and Vigna (2021), ACM TOMS 47(4); its high bits decide."""
    below = np.uint64(bars)
    for step in range(len(place_SL)):
        for lane in range(_LANES):
            a, b, c, d = state_4L[0, lane], state_4L[1, lane], state_4L[2, lane], state_4L[3, lane]
            place_SL[step, lane] = (np.uint64(np.uint32(a + d)) * below) >> np.uint64(32)
            shifted = np.uint32(b << np.uint32(9))
            c, d = np.uint32(c ^ a), np.uint32(d ^ b)
            state_4L[1, lane], state_4L[0, lane] = np.uint32(b ^ c), np.uint32(a ^ d)
            state_4L[2, lane] = np.uint32(c ^ shifted)
            state_4L[3, lane] = np.uint32(d << np.uint32(11)) | np.uint32(d >> np.uint32(21))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})  # several additions at a time
def _gathered(value_T: Doubles, place_T: Words) -> Any:
    """Sum of the values at these places, and of their squares."""
    first, second = 0.0, 0.0
    for t in range(len(value_T)):
        value = value_T[place_T[t]]
        first += value
        second += value * value
    return first, second


@njit(cache=True, nogil=True, error_model="numpy")
def draw_bars(value_KT: Doubles, key_R: Keys, sum_RW: Doubles) -> None:
    """Sums of values and of their squares over resamples of single bars, each drawn with equal chance.

    Args:
        sum_RW: filled; K sums, then K sums of squares.
    """
    width, bars = value_KT.shape
    state_4L = np.empty((4, _LANES), np.uint32)
    place_SL = np.empty(((bars + _LANES - 1) // _LANES, _LANES), np.uint32)
    place_T = place_SL.reshape(-1)
    for r in range(len(key_R)):
        _seed_lanes(key_R[r], state_4L)
        _draw_places(state_4L, bars, place_SL)
        for k in range(width):
            sum_RW[r, k], sum_RW[r, width + k] = _gathered(value_KT[k], place_T)
