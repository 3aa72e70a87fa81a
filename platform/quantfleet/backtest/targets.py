"""From weights to units: what both engines do with a row of target weights. Compiled, but for the error.

Shapes: S symbols.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from quantfleet.errors import BacktestError

if TYPE_CHECKING:
    from quantfleet.backtest.config import BacktestConfig
    from quantfleet.backtest.panel import PriceRows

__all__ = ["INFINITE", "SHORT", "TOO_MUCH", "UNLISTED", "close_all", "find_refusal", "refused_weights", "size_targets"]

INFINITE, TOO_MUCH, SHORT, UNLISTED = range(1, 5)
"""Why weights are refused."""
_ROUNDING = 1e-9
"""How far above the limit the absolute weights of a row may sum: 1/3 + 1/3 + 1/3 is not always 1."""


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def find_refusal(weight_S: Any, mark_S: Any, most: float, allow_short: bool) -> Any:
    """What is wrong with a row of weights, 0 for nothing. Symbols without a price so far have a mark of 0."""
    total = 0.0
    infinite = short = unlisted = 0
    for s in range(weight_S.size):
        weight = 0.0 if math.isnan(weight_S[s]) else weight_S[s]
        total += abs(weight)
        infinite += abs(weight) == math.inf
        short += weight < 0.0
        unlisted += (weight != 0.0) & (mark_S[s] == 0.0)
    if infinite:
        return INFINITE
    if total > most + _ROUNDING:
        return TOO_MUCH
    if short and not allow_short:
        return SHORT
    return UNLISTED if unlisted else 0


@njit(cache=True, nogil=True)
def size_targets(weight_S: Any, equity: float, units_S: Any, mark_S: Any, band: float, target_S: Any) -> Any:
    """Write target units at the known closes for the symbols that are decided, and NaN where the change is within the band.

    Returns: how many symbols are decided.
    """
    decided = 0
    for s in range(weight_S.size):
        weight, mark = weight_S[s], mark_S[s]
        keep = math.isnan(weight)
        decided += not keep
        target = weight * equity / (mark if mark > 0.0 else 1.0)
        target_S[s] = target_S[s] if keep else target
    if band > 0.0:
        for s in range(weight_S.size):
            weight = weight_S[s]
            if weight != 0.0 and abs(weight - units_S[s] * mark_S[s] / equity) < band:
                target_S[s] = np.nan
    return decided


@njit(cache=True, nogil=True)
def close_all(units_S: Any, target_S: Any) -> Any:
    """Replace all waiting orders by those that close the positions; returns how many."""
    held = 0
    for s in range(units_S.size):
        target_S[s] = 0.0 if units_S[s] != 0.0 else np.nan
        held += units_S[s] != 0.0
    return held


def refused_weights(
    name: str, prices: PriceRows, config: BacktestConfig, bar: int, weight_S: Any, refusal: int
) -> BacktestError:
    """The error that says why `find_refusal` refused the weights of a bar."""
    why = {
        INFINITE: "are infinite. A weight is a share of the capital.",
        TOO_MUCH: "sum to more than the whole capital"
        + (f" times backtest.leverage={config.leverage:g}" if config.leverage > 1.0 else "; there is no leverage")
        + f". Keep the sum of absolute weights at or below {config.leverage:g}.",
        SHORT: "go short on a long-only account. Set allow_short, or use long_flat.",
        UNLISTED: "ask for a symbol before its first bar. Use NaN or 0 until it has a price.",
    }[refusal]
    row = ", ".join(f"{s} {w:.6g}" for s, w in zip(prices.symbols, weight_S, strict=True) if w == w and w)
    return BacktestError(f"{name}: weights at {prices.time_T[bar]} ({row}) {why}", strategy=name, bar=bar)
