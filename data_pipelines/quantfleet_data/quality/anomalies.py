"""Checks of one symbol's raw bars that need judgement: moves too large for their past, or for so few trades.

Bars of one symbol, sorted by time, one row per time. Findings come in order of time.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl

from quantfleet_data.features.windows import Array, column, log_change
from quantfleet_data.quality.finding import Finding

__all__ = ["MIN_HISTORY_BARS", "OutlierScale", "find_outliers", "find_thin_moves"]

OutlierScale = Literal["trailing", "sample"]
"""What a return is measured against. trailing: the bars before it, so it could have been judged at the time. sample:
all bars, later ones too; good for a report, refused where the finding changes the data."""

MIN_HISTORY_BARS = 50
"""Returns with fewer before them are not judged."""
_MAD_TO_STD = 1.4826
_MEAN_TO_STD = 1.2533
_THIN_WINDOW_BARS = 20
_THIN_SHARE = 0.5


def find_outliers(bars: pl.DataFrame, *, z: float, window_bars: int, scale: OutlierScale) -> tuple[Finding, ...]:
    """Find close-to-close log returns more than `z` robust deviations from usual.

    The deviation is 1.4826 times the median absolute return (around zero for `trailing`, around the median for
    `sample`); where more than half the returns are zero, 1.2533 times the mean absolute return; where all are, nothing
    is judged.
    Source: Iglewicz & Hoaglin (1993), How to Detect and Handle Outliers.

    Args:
        bars: one symbol.
        z: threshold; returns have fat tails, and volatility comes in clusters, so 3 is far too low.
        window_bars: previous returns that `trailing` measures against.
    """
    change = log_change(column(bars, "close"))
    deviation = _trailing_deviation(change, window_bars) if scale == "trailing" else _sample_deviation(change)
    centre = 0.0 if scale == "trailing" or np.isnan(change).all() else float(np.nanmedian(change))
    scores = np.abs(change - centre) / np.where(deviation > 0.0, deviation, np.nan)
    return tuple(
        Finding(
            check="outliers",
            symbol=bars["symbol"][0],
            start=bars["timestamp"][int(row)],
            end=bars["timestamp"][int(row)],
            bars=1,
            detail=f"log return {change[row]:+.4f} is {scores[row]:.1f} robust deviations",
            severity="warning",
            hindsight=scale == "sample",
        )
        for row in np.flatnonzero(scores > z)
    )


def _trailing_deviation(change_T: Array, window_bars: int) -> Array:
    size = pl.Series(np.abs(change_T)).fill_nan(None)
    before = size.shift(1)  # a return is not part of what it is measured against
    minimum = min(MIN_HISTORY_BARS, window_bars)
    median = before.rolling_median(window_bars, min_samples=minimum).fill_null(np.nan).to_numpy()
    mean = before.rolling_mean(window_bars, min_samples=minimum).fill_null(np.nan).to_numpy()
    deviation: Array = np.where(median > 0.0, _MAD_TO_STD * median, _MEAN_TO_STD * mean)
    return deviation


def _sample_deviation(change_T: Array) -> Array:
    known = change_T[~np.isnan(change_T)]
    if known.size < MIN_HISTORY_BARS:
        return np.full(change_T.shape, np.nan)
    size = np.abs(known - np.median(known))
    median = float(np.median(size))
    return np.full(change_T.shape, _MAD_TO_STD * median if median > 0.0 else _MEAN_TO_STD * float(size.mean()))


def find_thin_moves(bars: pl.DataFrame) -> tuple[Finding, ...]:
    """Find closes at twice or half the one before in a market too thin to mean it: in at least half of the 20 bars
    before, nothing or one price was traded.

    Such returns are arithmetic, not money: one small order makes them and the next one takes them back.
    """
    change = log_change(column(bars, "close"))
    if change.size < 2:
        return ()
    still = (bars["high"] == bars["low"]) | (bars["volume"] == 0.0).fill_null(False)
    share = still.cast(pl.Float64).shift(1).rolling_mean(_THIN_WINDOW_BARS, min_samples=_THIN_WINDOW_BARS // 2)
    thin = share.fill_null(0.0).to_numpy() >= _THIN_SHARE
    with np.errstate(invalid="ignore"):
        rows = np.flatnonzero(thin & (np.abs(change) >= np.log(2.0) - 1e-9))
    return tuple(
        Finding(
            check="thin_moves",
            symbol=bars["symbol"][0],
            start=bars["timestamp"][row],
            end=bars["timestamp"][row],
            bars=1,
            detail=f"close is {np.exp(change[row]):.4g} times the one before, and {share[row]:.0%} of the bars before "
            "had at most one price",
            severity="warning",
        )
        for row in rows.tolist()
    )
