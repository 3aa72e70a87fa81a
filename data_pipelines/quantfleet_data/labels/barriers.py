"""Which of two barriers does the price touch first? The compiled kernel behind triple-barrier and meta-labels.

Shapes: T bars of one symbol; every bar is a decision, entered at the next bar's open.

A short horizon is scanned bar by bar and left at the first touch. Over a long one most bars lie far from both barriers, so whole
blocks of bars are skipped by their highest high and lowest low; the answer is the same, to the bar.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from quantfleet_data.features.windows import Array, column
from quantfleet_data.labels.future import ahead

__all__ = ["BOTH", "LOWER", "NEITHER", "UPPER", "first_touch", "touch_after_entry"]

LOWER, NEITHER, UPPER, BOTH = -1, 0, 1, 2
"""What was touched first. BOTH: one bar touched both, and which came first inside it is not known."""

_SHORT_BARS = 64  # up to here the plain scan is the fastest
_BLOCK = 16
_WIDE = 16 * _BLOCK


def first_touch(
    high_T: Array, low_T: Array, upper_T: Array, lower_T: Array, horizon_bars: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Find the first of bars t+1..t+horizon_bars whose high reaches upper[t] or whose low reaches lower[t], for every t.

    Args:
        high_T, low_T: contiguous float64 prices.
        upper_T, lower_T: barrier prices of the decision at t; +-inf or NaN where none stands.
        horizon_bars: 1 or more. Near the end of the data the bars that are there are scanned.
    Returns: what was touched (LOWER, NEITHER, UPPER, BOTH), and how many bars after t (0 for NEITHER).
    Source: Lopez de Prado (2018), Advances in Financial Machine Learning, snippet 3.2, for intrabar highs and lows.
    """
    if horizon_bars <= _SHORT_BARS:
        codes, bars = _scan(high_T, low_T, upper_T, lower_T, horizon_bars)
    else:
        codes, bars = _scan_blocks(high_T, low_T, upper_T, lower_T, horizon_bars)
    return codes, bars


def touch_after_entry(
    bars: pl.DataFrame, volatility_T: Array, *, above: Array | float, below: Array | float, horizon_bars: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """Enter at open[t+1] and wait for entry * (1 + above * v), entry * (1 - below * v), or the end of bar t+horizon_bars.

    Where nothing moved (v = 0) no barrier stands. NaN in v, `above` or `below`: there is no trade to judge.

    Returns: what was touched first, and the index (T,) of the last bar read, -1 where that is not known yet or no trade.
    """
    entry = ahead(column(bars, "open"), 1)
    upper, lower = entry * (1.0 + above * volatility_T), entry * (1.0 - below * volatility_T)
    still = volatility_T == 0.0
    touched, after = first_touch(
        column(bars, "high"),
        column(bars, "low"),
        np.where(still, np.inf, upper),
        np.where(still, -np.inf, lower),
        horizon_bars,
    )
    row = np.arange(bars.height, dtype=np.int64)
    last_bar = row + np.where(touched == NEITHER, horizon_bars, after)
    last_bar[(last_bar >= bars.height) | np.isnan(upper) | np.isnan(lower)] = -1
    return touched, last_bar


@njit(cache=True, nogil=True)
def _scan(
    high: Array, low: Array, upper: Array, lower: Array, horizon: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    rows = high.size
    codes, bars = np.empty(rows, np.int8), np.empty(rows, np.int32)
    for t in range(rows):
        up, down = upper[t], lower[t]
        code, after = 0, 0
        for j in range(t + 1, min(t + horizon + 1, rows)):
            if low[j] <= down:
                code, after = (2 if high[j] >= up else -1), j - t
                break
            if high[j] >= up:
                code, after = 1, j - t
                break
        codes[t], bars[t] = code, after
    return codes, bars


@njit(cache=True, nogil=True)
def _extremes(high: Array, low: Array, block: int) -> tuple[Array, Array]:
    """Highest high and lowest low of each block of bars; the last block may be short."""
    count = (high.size + block - 1) // block
    highest, lowest = np.full(count, -np.inf), np.full(count, np.inf)
    for j in range(high.size):
        b = j // block
        highest[b], lowest[b] = max(highest[b], high[j]), min(lowest[b], low[j])
    return highest, lowest


@njit(cache=True, nogil=True)
def _scan_blocks(
    high: Array, low: Array, upper: Array, lower: Array, horizon: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    rows = high.size
    block_high, block_low = _extremes(high, low, _BLOCK)
    wide_high, wide_low = _extremes(block_high, block_low, _WIDE // _BLOCK)
    codes, bars = np.empty(rows, np.int8), np.empty(rows, np.int32)
    for t in range(rows):
        up, down = upper[t], lower[t]
        code, after = 0, 0
        j, end = t + 1, min(t + horizon + 1, rows)
        while j < end and after == 0:
            if j % _WIDE == 0 and j + _WIDE <= end and wide_low[j // _WIDE] > down and wide_high[j // _WIDE] < up:
                j += _WIDE
                continue
            stop = min((j // _BLOCK + 1) * _BLOCK, end)
            if j % _BLOCK == 0 and block_low[j // _BLOCK] > down and block_high[j // _BLOCK] < up:
                j = stop
                continue
            while j < stop:
                if low[j] <= down:
                    code, after = (2 if high[j] >= up else -1), j - t
                    break
                if high[j] >= up:
                    code, after = 1, j - t
                    break
                j += 1
        codes[t], bars[t] = code, after
    return codes, bars
