"""B1: triple barrier over 60 bars, against the loop that everybody writes: bar by bar, left at the first touch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import njit

from bench.harness import BenchRow, Prepared
from quantfleet_data.labels.barriers import BOTH, LOWER, first_touch

EVENTS = 1_000_000
VOLATILITY = 0.001


@njit(nogil=True)
def early_exit_scan(high: Any, low: Any, upper: Any, lower: Any, horizon: int) -> Any:
    """Label and bar of the first touch of every event; the loss counts when one bar touches both."""
    labels, touched_at = np.zeros(high.size, np.int8), np.full(high.size, -1, np.int64)
    for event in range(high.size):
        for bar in range(event + 1, min(event + horizon + 1, high.size)):
            if low[bar] <= lower[event]:
                labels[event], touched_at[event] = -1, bar
                break
            if high[bar] >= upper[event]:
                labels[event], touched_at[event] = 1, bar
                break
    return labels, touched_at


def prepare(horizon_bars: int, multiplier: float) -> Prepared:
    """A random walk of one event a bar; barriers at `multiplier` volatilities of a bar around the next open."""
    rng = np.random.default_rng(0)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, VOLATILITY, EVENTS)))
    opened = np.concatenate([[100.0], close[:-1]])
    high = np.maximum(opened, close) * np.exp(np.abs(rng.normal(0.0, VOLATILITY / 2, EVENTS)))
    low = np.minimum(opened, close) * np.exp(-np.abs(rng.normal(0.0, VOLATILITY / 2, EVENTS)))
    entry = np.append(opened[1:], np.nan)
    upper, lower = entry * (1.0 + multiplier * VOLATILITY), entry * (1.0 - multiplier * VOLATILITY)

    def check(ours: Any, peer: Any) -> None:
        (touched, after), (labels, touched_at) = ours, peer
        np.testing.assert_array_equal(np.where(touched == BOTH, LOWER, touched), labels)
        np.testing.assert_array_equal(np.where(after > 0, np.arange(EVENTS) + after, -1), touched_at)
        assert np.mean(labels != 0) > 0.05, "barriers that are never touched would measure nothing"

    return Prepared(
        ours=lambda: first_touch(high, low, upper, lower, horizon_bars),
        peer=lambda: early_exit_scan(high, low, upper, lower, horizon_bars),
        check=check,
    )


ROW = BenchRow(
    id="B1",
    work="triple barrier, 1M events, horizon 60, barriers at 4 volatilities",
    peer="early-exit numba scan",
    target=1.05,
    prepare=partial(prepare, 60, 4.0),
    versions=("numba", "numpy"),
    rounds=11,
)
