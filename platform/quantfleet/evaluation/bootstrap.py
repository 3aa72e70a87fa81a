"""Stationary bootstrap of Sharpe ratios: an interval for one, and a paired test for the difference of two.

Shapes: T bars, K paired series (the same bars of K strategies), R resamples.

A resample strings together blocks of the series, each starting anywhere with equal chance, of geometric length with the
mean `block_bars`, wrapping around at the end, until it has T bars. Dependence inside blocks survives, and so does the
pairing: all K series take the same bars. Source: Politis and Romano (1994), "The Stationary Bootstrap", JASA 89(428).

Each resample has a random stream of its own, keyed by the seed and its number: draws do not depend on the number of threads,
and the first thousand of a million are those of a thousand. The loops are in `bootstrap_kernel`.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.chance import random_keys
from quantfleet.evaluation.metrics import sharpe

__all__ = [
    "SharpeDifference",
    "SharpeInterval",
    "optimal_block_bars",
    "resample_sharpes",
    "sharpe_difference",
    "sharpe_interval",
]

Array = npt.NDArray[np.floating[Any]]

_SLICE_PLACES = 1 << 20
"""Blocks or bars drawn in one call: some milliseconds, so that a resampling that is smaller starts no threads."""
_FLAT = 1e-9
"""Below this share of the series' own variance a resample holds equal returns; its Sharpe ratio is undefined."""
_SHORTEST_BARS = 8
"""Below this Politis and White's estimator has no lags to look at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharpeInterval:
    """A Sharpe ratio and its percentile interval, annualised. A bound is NaN where undefined resamples reach it."""

    estimate: float
    low: float
    high: float
    confidence: float
    block_bars: float
    resamples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SharpeDifference:
    """The difference of two Sharpe ratios (first less second), annualised, with interval and one-sided test."""

    estimate: float
    low: float
    high: float
    p_value: float
    """Chance of a difference at least this large if the true one were zero (H1: the first is better)."""
    confidence: float
    block_bars: float
    resamples: int


def optimal_block_bars(returns_T: Array) -> float:
    """Mean block length for the stationary bootstrap by Politis and White's rule; at least 1 bar.

    Returns: bars; 1 for a constant series and for fewer than eight bars.
    Source: Politis and White (2004), Patton, Politis and White (2009), as `arch.bootstrap.optimal_block_length`.
    """
    if len(returns_T) < _SHORTEST_BARS or np.ptp(returns_T) == 0.0 or not np.isfinite(returns_T).all():
        return 1.0
    from arch.bootstrap import optimal_block_length  # pulls in statsmodels, which takes a second to import

    with np.errstate(all="ignore"):
        length = float(optimal_block_length(np.asarray(returns_T, dtype=np.float64))["stationary"].iloc[0])
    return max(1.0, length) if math.isfinite(length) else 1.0


def resample_sharpes(
    returns_KT: Array, *, block_bars: float, resamples: int, seed: int, threads: int | None = None
) -> npt.NDArray[np.float64]:
    """Draw Sharpe ratios of K paired series.

    Args:
        returns_KT: simple returns per bar; row k is strategy k, columns are the same bars.
        block_bars: mean block length, at least 1 (1 is the iid bootstrap).
        threads: that draw side by side; None takes the cores this process may use. The draws are the same for any number.
    Returns: shape (R, K), per bar (not annualised); NaN where a resample holds equal returns only.
    Raises: ValueError: fewer than two bars, a block shorter than a bar, no resamples or threads, or returns that are not finite.
    """
    returns = np.atleast_2d(np.asarray(returns_KT, dtype=np.float64))
    width, bars = returns.shape
    if bars < 2 or not 1.0 <= block_bars < math.inf or resamples < 1 or not np.isfinite(returns).all():
        raise ValueError(
            f"cannot resample {bars} bars in blocks of {block_bars}, {resamples} times: it takes at least 2 finite "
            "returns, blocks of at least 1 bar and 1 resample."
        )
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads} must be at least 1, or None for the cores there are.")
    mean_K = returns.mean(axis=1)
    centred_KT = returns - mean_K[:, None]  # small numbers keep differences of prefix sums exact
    draw, places = _drawing(centred_KT, block_bars)
    floor_K = _FLAT * centred_KT.var(axis=1)
    key_R = random_keys(seed, np.arange(resamples))
    sharpe_RK = np.empty((resamples, width))

    def fill(first: int) -> None:
        here = slice(first, first + per_slice)
        sums = np.empty((len(key_R[here]), 2 * width))
        draw(key_R[here], sums)
        variance = (sums[:, width:] - sums[:, :width] ** 2 / bars) / (bars - 1)
        defined = variance > floor_K
        deviation = np.sqrt(np.where(defined, variance, 1.0))
        sharpe_RK[here] = np.where(defined, (mean_K + sums[:, :width] / bars) / deviation, np.nan)

    per_slice = max(1, int(_SLICE_PLACES / places))
    slices = range(0, resamples, per_slice)
    workers = min(len(slices), threads or len(os.sched_getaffinity(0)))
    if workers == 1:
        for first in slices:
            fill(first)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fill, slices))
    return sharpe_RK


def _drawing(centred_KT: npt.NDArray[np.float64], block_bars: float) -> tuple[Callable[..., None], float]:
    """What fills the sums of some resamples, given their keys; and how many places it draws for each."""
    from quantfleet.evaluation import bootstrap_kernel as kernel  # pulls in numba, which takes half a second to import

    width, bars = centred_KT.shape
    if block_bars == 1.0:
        return functools.partial(kernel.draw_bars, centred_KT), float(bars)
    prefix = np.zeros((bars + 1, 2 * width))
    np.cumsum(centred_KT.T, axis=0, out=prefix[1:, 0::2])
    np.cumsum(centred_KT.T**2, axis=0, out=prefix[1:, 1::2])
    return functools.partial(kernel.draw_blocks, prefix, *kernel.length_table(block_bars)), bars / block_bars + 1.0


def sharpe_interval(
    returns_T: Array,
    *,
    bars_per_year: float,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 10_000,
    block_bars: float | None = None,
) -> SharpeInterval:
    """Percentile interval of an annualised Sharpe ratio.

    Resamples without a defined ratio (all returns equal) count as minus infinity for the lower bound and as infinity
    for the upper one: they never flatter.

    Args:
        returns_T: simple returns per bar, net of costs.
        confidence: of the two-sided interval; a one-sided lower bound at 1 - a is the low end at 1 - 2a.
        resamples: R; more than 1 / a are needed to see a tail of mass a.
        block_bars: mean block length; None takes `optimal_block_bars`.
    Returns: all NaN when the ratio is undefined (constant or non-finite returns).
    Raises: ValueError: fewer than two bars, or a confidence outside (0, 1).
    """
    pair = np.asarray(returns_T, dtype=np.float64)[None]
    block = _block_or_optimal(block_bars, pair, confidence)
    estimate, drawn = _estimate_and_draw(pair, bars_per_year, block, resamples, seed)
    low, high = _bounds(drawn[:, 0], confidence)
    return SharpeInterval(
        estimate=estimate[0], low=low, high=high, confidence=confidence, block_bars=block, resamples=resamples
    )


def sharpe_difference(
    returns_a_T: Array,
    returns_b_T: Array,
    *,
    bars_per_year: float,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 10_000,
    block_bars: float | None = None,
) -> SharpeDifference:
    """Compare two strategies over the same bars: is the first one's Sharpe ratio higher?

    The p-value is one-sided, from the bootstrap distribution moved to a difference of zero: the share of resamples
    whose difference exceeds the estimate by at least the estimate, with one added to both counts so that it is never
    zero. Undefined resamples count against the first strategy. A second series of zeros throughout is cash, a fair
    rival: its ratio counts as 0.

    Args:
        returns_a_T, returns_b_T: simple returns per bar of the same T bars.
        block_bars: mean block length; None takes the mean of the two series' `optimal_block_bars`.
    Returns: all NaN when either ratio is undefined (cash as the second apart).
    Raises: ValueError: series of different length, fewer than two bars, or a confidence outside (0, 1).
    """
    if np.shape(returns_a_T) != np.shape(returns_b_T):
        raise ValueError(f"paired series differ in shape: {np.shape(returns_a_T)} and {np.shape(returns_b_T)}.")
    pair = np.stack([np.asarray(returns_a_T, dtype=np.float64), np.asarray(returns_b_T, dtype=np.float64)])
    block = _block_or_optimal(block_bars, pair, confidence)
    if len(pair[1]) and not pair[1].any():
        (estimate,), drawn = _estimate_and_draw(pair[:1], bars_per_year, block, resamples, seed)
        difference = drawn[:, 0]
    else:
        (a, b), drawn = _estimate_and_draw(pair, bars_per_year, block, resamples, seed)
        estimate, difference = a - b, drawn[:, 0] - drawn[:, 1]
    low, high = _bounds(difference, confidence)
    against = np.where(np.isnan(difference), np.inf, difference - estimate) >= estimate
    p_value = math.nan if math.isnan(estimate) else float((1 + against.sum()) / (resamples + 1))
    return SharpeDifference(
        estimate=estimate,
        low=low,
        high=high,
        p_value=p_value,
        confidence=confidence,
        block_bars=block,
        resamples=resamples,
    )


def _block_or_optimal(block_bars: float | None, returns_KT: npt.NDArray[np.float64], confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, both excluded.")
    return block_bars if block_bars is not None else float(np.mean([optimal_block_bars(row) for row in returns_KT]))


def _estimate_and_draw(
    returns_KT: npt.NDArray[np.float64], bars_per_year: float, block_bars: float, resamples: int, seed: int
) -> tuple[list[float], npt.NDArray[np.float64]]:
    estimate = [sharpe(row, bars_per_year=bars_per_year) for row in returns_KT]
    if not np.isfinite(estimate).all():
        return estimate, np.full((resamples, len(estimate)), np.nan)
    drawn = resample_sharpes(returns_KT, block_bars=block_bars, resamples=resamples, seed=seed)
    return estimate, drawn * math.sqrt(bars_per_year)


def _bounds(drawn_R: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = (1.0 - confidence) / 2.0
    missing = np.isnan(drawn_R)
    low = float(np.quantile(np.where(missing, -np.inf, drawn_R), tail, method="lower"))
    high = float(np.quantile(np.where(missing, np.inf, drawn_R), 1.0 - tail, method="higher"))
    return low if math.isfinite(low) else math.nan, high if math.isfinite(high) else math.nan
