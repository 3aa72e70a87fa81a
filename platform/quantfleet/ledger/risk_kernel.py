"""The decisions of `risk.py`, compiled: pure arithmetic on arrays, for every engine that keeps an account.

Shapes: S symbols, W returns of the window. `limits` is `risk.Limits`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

__all__ = ["DAY_LOST", "DRAWN_DOWN", "GOING_ON", "check_stops", "decide_halt", "shape_weights", "track_entries"]

GOING_ON, DAY_LOST, DRAWN_DOWN = range(3)
"""What `decide_halt` says."""
_ROUNDING = 1e-12


@njit(cache=True, nogil=True)
def track_entries(units_S: Any, traded_S: Any, fill_S: Any, entry_S: Any, best_S: Any) -> None:
    """Bring average entry prices and best prices up to date after fills; 0 without a position.

    Args:
        units_S: what is held after the fills.
    """
    for s in range(units_S.size):
        held, traded = units_S[s], traded_S[s]
        if traded == 0.0:
            continue
        before = held - traded
        if held == 0.0:
            entry_S[s] = best_S[s] = 0.0
        elif before * held <= 0.0:  # opened, or turned around
            entry_S[s] = best_S[s] = fill_S[s]
        elif abs(held) > abs(before):
            entry_S[s] = (before * entry_S[s] + traded * fill_S[s]) / held


@njit(cache=True, nogil=True)
def check_stops(units_S: Any, mark_S: Any, entry_S: Any, best_S: Any, shut_S: Any, limits: Any) -> Any:
    """Find positions to close at these prices, shut their symbols to the side they were on, and return how many.

    Args:
        best_S: brought up to date.
        shut_S: 1 or -1 for the side that a symbol is shut to, 0 for none; written where a stop is hit.
    """
    stopped = 0
    for s in range(units_S.size):
        if units_S[s] == 0.0:
            continue
        side = 1.0 if units_S[s] > 0.0 else -1.0
        price = mark_S[s]
        if side * (price - best_S[s]) > 0.0:
            best_S[s] = price
        slack = _ROUNDING * price  # 110 is a rise of 10 % from 100, though 100 * 1.1 is a little more
        lost = side * (price - entry_S[s] * (1.0 - side * limits.stop_loss)) <= slack
        won = side * (price - entry_S[s] * (1.0 + side * limits.take_profit)) >= -slack
        back = side * (price - best_S[s] * (1.0 - side * limits.trailing_stop)) <= slack
        if lost or won or back:
            shut_S[s] = side
            stopped += 1
    return stopped


@njit(cache=True, nogil=True)
def decide_halt(equity: float, peak: float, day_began: float, limits: Any) -> Any:
    """What the account must do at this close.

    Args:
        peak: highest equity so far.
        day_began: equity at the last close of the day before.
    """
    floor = equity * (1.0 - _ROUNDING)
    if floor <= peak * (1.0 - limits.max_drawdown):
        return DRAWN_DOWN
    return DAY_LOST if floor <= day_began * (1.0 - limits.max_daily_loss) else GOING_ON


@njit(cache=True, nogil=True)
def _scale(weight_S: Any, held_S: Any, marks_WS: Any, limits: Any) -> Any:
    """How the row is scaled for volatility and Kelly fraction; 0 before the window is full, 1 for returns that never differ."""
    if marks_WS.shape[0] <= limits.window_bars:
        return 0.0
    window = limits.window_bars
    total = squares = 0.0
    returns_W = np.empty(window)
    for k in range(window):
        portfolio = 0.0
        for s in range(weight_S.size):
            weight = held_S[s] if math.isnan(weight_S[s]) else weight_S[s]
            if weight != 0.0 and marks_WS[k, s] > 0.0:
                portfolio += weight * (marks_WS[k + 1, s] / marks_WS[k, s] - 1.0)
        returns_W[k] = portfolio
        total += portfolio
    mean = total / window
    for k in range(window):
        squares += (returns_W[k] - mean) ** 2
    variance = squares / (window - 1)
    scale = np.inf
    if limits.target_volatility < np.inf:
        scale = limits.target_volatility / math.sqrt(variance) if variance > 0.0 else 1.0
    if limits.kelly_fraction < np.inf:
        growth = 1.0 if variance == 0.0 else limits.kelly_fraction * mean / variance
        scale = min(scale, max(growth, 0.0))
    return scale


@njit(cache=True, nogil=True)
def _cut_groups(weight_S: Any, held_S: Any, marks_WS: Any, limits: Any) -> None:
    """Cut symbols that move together to `max_position` for each of them with all that go its way.

    A symbol takes the smallest share of all groups it is in, so that the order of symbols does not matter.
    """
    width, window = weight_S.size, min(limits.window_bars, marks_WS.shape[0] - 1)
    if window < 2:
        return
    deviation_SW = np.zeros((width, window))
    for s in range(width):
        mean = 0.0
        for k in range(window):
            before = marks_WS[marks_WS.shape[0] - 1 - window + k, s]
            after = marks_WS[marks_WS.shape[0] - window + k, s]
            deviation_SW[s, k] = after / before - 1.0 if before > 0.0 else 0.0
            mean += deviation_SW[s, k] / window
        squares = 0.0
        for k in range(window):
            deviation_SW[s, k] -= mean
            squares += deviation_SW[s, k] ** 2
        for k in range(window):
            deviation_SW[s, k] /= math.sqrt(squares) if squares > 0.0 else 1.0
    share_S = np.ones(width)
    for i in range(width):
        mine = held_S[i] if math.isnan(weight_S[i]) else weight_S[i]
        if mine == 0.0:
            continue
        decided = kept = 0.0
        for stage in range(2):
            share = 1.0
            if stage == 1:
                if decided == 0.0 or decided + kept <= limits.max_position:
                    break
                share = max(limits.max_position - kept, 0.0) / decided
            for j in range(width):
                other = held_S[j] if math.isnan(weight_S[j]) else weight_S[j]
                together = 1.0
                if j != i:
                    correlation = 0.0
                    for k in range(window):
                        correlation += deviation_SW[i, k] * deviation_SW[j, k]
                    together = correlation if mine * other > 0.0 else -correlation
                if other == 0.0 or (together <= limits.max_correlation and j != i):
                    continue
                if stage == 1:
                    share_S[j] = min(share_S[j], share)
                elif math.isnan(weight_S[j]):
                    kept += abs(other)
                else:
                    decided += abs(other)
    for s in range(width):
        weight_S[s] *= share_S[s]


@njit(cache=True, nogil=True)
def shape_weights(weight_S: Any, held_S: Any, marks_WS: Any, leverage: float, limits: Any) -> None:
    """Scale and cut a row of target weights in place; NaN stays NaN.

    Args:
        held_S: weights that are held now.
        marks_WS: last known closes, the newest last; 0 before a symbol's first. One row more than returns are needed.
        leverage: of the account; scaled weights stay within it.
    """
    if limits.target_volatility < np.inf or limits.kelly_fraction < np.inf:
        scale = _scale(weight_S, held_S, marks_WS, limits)
        gross = 0.0
        for s in range(weight_S.size):
            gross += 0.0 if math.isnan(weight_S[s]) else abs(weight_S[s])
        scale = min(scale, leverage / gross) if gross > 0.0 else 1.0
        for s in range(weight_S.size):
            weight_S[s] *= scale
    for s in range(weight_S.size):
        if abs(weight_S[s]) > limits.max_position:
            weight_S[s] = math.copysign(limits.max_position, weight_S[s])
    if limits.max_correlation < np.inf:
        _cut_groups(weight_S, held_S, marks_WS, limits)
    kept_long = kept_short = long = short = 0.0
    for s in range(weight_S.size):
        if math.isnan(weight_S[s]):
            kept_long += max(held_S[s], 0.0)
            kept_short += max(-held_S[s], 0.0)
        else:
            long += max(weight_S[s], 0.0)
            short += max(-weight_S[s], 0.0)
    room = max(limits.max_gross - kept_long - kept_short, 0.0)
    share = min(room / (long + short), 1.0) if long + short > 0.0 else 1.0
    net = kept_long - kept_short + share * (long - short)
    long_share = short_share = share
    if net > limits.max_net and long > 0.0:
        long_share = max(share - (net - limits.max_net) / long, 0.0)
    elif -net > limits.max_net and short > 0.0:
        short_share = max(share - (-net - limits.max_net) / short, 0.0)
    for s in range(weight_S.size):
        weight_S[s] *= long_share if weight_S[s] > 0.0 else short_share
