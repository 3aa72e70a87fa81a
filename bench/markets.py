"""Made markets and strategies of the backtest rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantfleet.backtest import BarPanel

__all__ = ["crossings", "later", "random_walk", "rebalanced"]


def random_walk(bars: int, symbols: int, step: str, seed: int = 0) -> BarPanel:
    """Prices without drift; each bar opens a little away from the last close."""
    rng = np.random.default_rng(seed)
    close_TS = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.002, (bars, symbols)), axis=0))
    open_TS = np.vstack([np.full((1, symbols), 100.0), close_TS[:-1]]) * np.exp(
        rng.normal(0.0, 0.0005, (bars, symbols))
    )
    time_T = np.datetime64("2000-01-03", "us") + np.arange(bars) * np.timedelta64(1, step)
    return BarPanel(open_TS=open_TS, close_TS=close_TS, time_T=time_T, symbols=tuple(f"S{s}" for s in range(symbols)))


def crossings(close_T: Any, fast_bars: int, slow_bars: int) -> tuple[Any, Any]:
    """Entries and exits where one moving average crosses another; bool, shape (T,)."""
    sums = np.concatenate([[0.0], np.cumsum(close_T)])
    above = np.zeros(len(close_T), dtype=bool)
    known = slice(slow_bars - 1, None)
    fast = (sums[slow_bars:] - sums[slow_bars - fast_bars : -fast_bars]) / fast_bars
    slow = (sums[slow_bars:] - sums[:-slow_bars]) / slow_bars
    above[known] = fast > slow
    before = np.concatenate([[False], above[:-1]])
    return above & ~before, before & ~above


def later(rows: Any, fill: Any) -> Any:
    """One bar later: the peer trades in the bar whose row it reads, we in the bar after the decision."""
    return np.concatenate([np.full_like(rows[:1], fill), rows[:-1]])


def rebalanced(decisions: int, symbols: int, seed: int = 1) -> Any:
    """Weights that drift slowly and sum to 0.6: shape (D, S). There is cash for every purchase, in whatever order."""
    rng = np.random.default_rng(seed)
    score_DS = rng.normal(0.0, 0.5, (decisions, symbols))
    for d in range(1, decisions):
        score_DS[d] = 0.99 * score_DS[d - 1] + 0.1 * score_DS[d]
    weight_DS = np.exp(score_DS)
    return 0.6 * weight_DS / weight_DS.sum(axis=1, keepdims=True)
