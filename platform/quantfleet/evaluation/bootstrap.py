"""Stationary bootstrap of Sharpe ratios: an interval for one, and a paired test for the difference of two.

Shapes: T bars, K paired series (the same bars of K strategies), R resamples.

A resample strings together blocks of the series, each starting anywhere with equal chance, of geometric length with the
mean `block_bars`, wrapping around at the end, until it has T bars. Dependence inside blocks survives, and so does the
pairing: all K series take the same bars. Source: Politis and Romano (1994), "The Stationary Bootstrap", JASA 89(428).

Speed: a Sharpe ratio needs only sums of returns and of their squares, and a block's sums are differences of prefix
sums, so a block costs the same however long it is. Blocks are drawn for many resamples at once, in slices of bounded
memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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

_SLICE_BLOCKS = 1 << 16
"""Blocks in memory at a time: a few MB, which stays in cache."""
_FLAT = 1e-9
"""Below this share of the series' own variance a resample holds equal returns; its Sharpe ratio is undefined."""
_SHORTEST_BARS = 8
"""Below this Politis and White's estimator has no lags to look at."""
_LONGEST_BARS = 2.0**40
"""A block beyond any series; keeps its length within an integer."""


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


def resample_sharpes(returns_KT: Array, *, block_bars: float, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Draw Sharpe ratios of K paired series.

    Args:
        returns_KT: simple returns per bar; row k is strategy k, columns are the same bars.
        block_bars: mean block length, at least 1 (1 is the iid bootstrap).
    Returns: shape (R, K), per bar (not annualised); NaN where a resample holds equal returns only.
    Raises: ValueError: fewer than two bars, a block shorter than a bar, no resamples, or returns that are not finite.
    """
    returns = np.atleast_2d(np.asarray(returns_KT, dtype=np.float64))
    width, bars = returns.shape
    if bars < 2 or not 1.0 <= block_bars < math.inf or resamples < 1 or not np.isfinite(returns).all():
        raise ValueError(
            f"cannot resample {bars} bars in blocks of {block_bars}, {resamples} times: it takes at least 2 finite "
            "returns, blocks of at least 1 bar and 1 resample."
        )
    mean_K = returns.mean(axis=1)
    centred_KT = returns - mean_K[:, None]  # small numbers keep differences of prefix sums exact
    # The series stands behind itself once more, for blocks that wrap around.
    twice = np.tile(np.concatenate([centred_KT, centred_KT**2]), 2)
    prefix = np.concatenate([np.zeros((2 * width, 1)), np.cumsum(twice, axis=1)], axis=1)
    floor_K = _FLAT * centred_KT.var(axis=1)
    rng = np.random.default_rng(seed)
    per_slice = max(1, int(_SLICE_BLOCKS / (bars / block_bars + 1.0)))
    sharpes = np.empty((resamples, width))
    for first in range(0, resamples, per_slice):
        count = min(per_slice, resamples - first)
        start, length, opening = _blocks(rng, bars, block_bars, count)
        stop = start + length
        sums = np.stack([np.add.reduceat(row.take(stop) - row.take(start), opening) for row in prefix], axis=1)
        variance = (sums[:, width:] - sums[:, :width] ** 2 / bars) / (bars - 1)
        defined = variance > floor_K
        deviation = np.sqrt(np.where(defined, variance, 1.0))
        sharpes[first : first + count] = np.where(defined, (mean_K + sums[:, :width] / bars) / deviation, np.nan)
    return sharpes


def _blocks(
    rng: np.random.Generator, bars: int, block_bars: float, resamples: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw blocks for several resamples in one stream: start and length of each, and each resample's first block.

    Block ends form one geometric renewal process over `resamples x bars` places, cut at every multiple of `bars`; since
    geometric lengths have no memory, what follows a cut is distributed as a fresh start.
    """
    total = resamples * bars
    ends: list[npt.NDArray[np.int64]] = []
    reached = 0
    while reached < total:
        draw = int((total - reached) / block_bars * 1.02) + 32
        drawn = np.cumsum(_geometric(rng, block_bars, draw)) + reached
        ends.append(drawn)
        reached = int(drawn[-1])
    inner = np.concatenate(ends)
    cuts = np.arange(1, resamples + 1, dtype=np.int64) * bars
    edges = np.concatenate([inner[inner < total], cuts])
    edges.sort(kind="stable")
    length = np.diff(edges, prepend=0)  # a cut that meets an end gives a block of no bars, which adds nothing
    opening = np.searchsorted(edges, cuts - bars, side="right")
    return rng.integers(0, bars, size=len(edges)), length, opening


def _geometric(rng: np.random.Generator, mean: float, size: int) -> npt.NDArray[np.int64]:
    if mean == 1.0:
        return np.ones(size, dtype=np.int64)
    rate = -math.log1p(-1.0 / mean)
    lengths: npt.NDArray[np.float64] = np.ceil(rng.standard_exponential(size) / rate)
    return np.clip(lengths, 1.0, _LONGEST_BARS).astype(np.int64)


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
