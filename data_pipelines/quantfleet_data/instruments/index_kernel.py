"""The index arithmetic, bar by bar. Compiled; sums run in the order of the symbols, so blocks never change a bit.

Shapes: T bars of a block, N symbols (sorted by name), E events.

At each bar the value of the units held is compared with their value at the closes before:

    level[t] = level[t-1] * sum(unit * close[t]) / sum(unit * close[t-1]),   over the constituents of bar t

Constituents and units of bar t are settled with what was known before it opened. Since both sums run over the same units,
a change of members or weights moves nothing by itself: that is the chain-linked divisor (S&P Dow Jones Indices, "Index
Mathematics Methodology", divisor adjustments).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["CASH", "DELISTED", "SPLIT", "WEIGHT", "Events", "State", "grown", "walk"]

Array: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

CASH, SPLIT, WEIGHT, DELISTED = 0, 1, 2, 3  # their order at one time: cash is paid on old units
EQUAL, PRICE, CAP, GIVEN = 0, 1, 2, 3
_FRESH = np.iinfo(np.int64).max // 2


@dataclass(frozen=True, slots=True)
class Events:
    """What becomes known at the open of a bar, sorted by bar, then kind."""

    bar_E: Ints
    symbol_E: Ints
    kind_E: Ints
    value_E: Array
    effective_us_E: Ints
    """When the action took effect: an action whose effect the last price already shows does not divide it again."""


@dataclass(slots=True)
class State:
    """What one bar hands to the next, per symbol."""

    close_N: Array
    """Last known price; NaN before the first."""
    missed_N: Ints
    """Bars of the index since that price."""
    last_us_N: Ints
    unit_N: Array
    target_N: Array
    """Newest known weight or share count; NaN before the first."""
    active_N: Bools
    level: Array
    """Shape (1,): the index at the last close."""


def grown(state: State | None, old: list[str], new: list[str], base: float) -> State:
    """The state laid out for more symbols, those of before among them."""
    place = np.searchsorted(np.array(new, dtype=object), np.array(old, dtype=object)) if old else np.zeros(0, np.int64)

    def column(fill: float, dtype: type, values: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        out: npt.NDArray[Any] = np.full(len(new), fill, dtype)
        if values is not None:
            out[place] = values
        return out

    s = state
    return State(
        close_N=column(np.nan, np.float64, None if s is None else s.close_N),
        missed_N=column(_FRESH, np.int64, None if s is None else s.missed_N),
        last_us_N=column(np.iinfo(np.int64).min, np.int64, None if s is None else s.last_us_N),
        unit_N=column(0.0, np.float64, None if s is None else s.unit_N),
        target_N=column(np.nan, np.float64, None if s is None else s.target_N),
        active_N=column(False, np.bool_, None if s is None else s.active_N),
        level=np.array([base]) if s is None else s.level,
    )


def walk(
    bars_5TN: Array,
    time_us_T: Ints,
    member_TN: Bools,
    rebalance_T: Bools,
    events: Events,
    state: State,
    *,
    scheme: int,
    max_missing: int,
    delisting_return: float,
    reinvest: bool,
) -> tuple[Array, int, int]:
    """Move the state over a block of bars.

    Args:
        bars_5TN: open, high, low, close, volume; NaN where a symbol has no bar (or no volume).
        member_TN: whether a symbol belongs to the index when the bar opens.
        rebalance_T: bars at whose open the units are set anew.
    Returns: (5, T): open, high, low, close and dollar volume of the index, NaN where it had no constituent; then bar and
        symbol of the first constituent without a known weight, or -1, -1.
    """
    out_5T = np.full((5, len(time_us_T)), np.nan)
    bad_t, bad_i = _walk(
        bars_5TN, time_us_T, member_TN, rebalance_T,
        events.bar_E, events.symbol_E, events.kind_E, events.value_E, events.effective_us_E,
        state.close_N, state.missed_N, state.last_us_N, state.unit_N, state.target_N, state.active_N, state.level,
        scheme, max_missing, delisting_return, reinvest, out_5T,
    )  # fmt: skip
    return out_5T, int(bad_t), int(bad_i)


@njit(cache=True, nogil=True)
def _walk(
    bars: Array,
    time_us: Ints,
    member: Bools,
    rebalance: Bools,
    ev_bar: Ints,
    ev_symbol: Ints,
    ev_kind: Ints,
    ev_value: Array,
    ev_effective: Ints,
    close: Array,
    missed: Ints,
    last_us: Ints,
    unit: Array,
    target: Array,
    active: Bools,
    level: Array,
    scheme: int,
    max_missing: int,
    delisting_return: float,
    reinvest: bool,
    out: Array,
) -> tuple[int, int]:
    T, N = member.shape
    cash = np.zeros(N)
    leaving = np.zeros(N, np.bool_)
    e = 0
    for t in range(T):
        changed = rebalance[t]
        while e < len(ev_bar) and ev_bar[e] <= t:
            i, kind, value = ev_symbol[e], ev_kind[e], ev_value[e]
            ahead = last_us[i] < ev_effective[e]  # the last price is still one of before
            if kind == SPLIT:
                if ahead and not np.isnan(close[i]):
                    close[i] /= value
                if scheme != PRICE:
                    unit[i] *= value
                if scheme == CAP:
                    target[i] *= value
                cash[i] /= value
            elif kind == CASH:
                if ahead and reinvest:
                    cash[i] += value
            elif kind == WEIGHT:
                target[i] = value
                changed = changed or active[i]
            else:
                leaving[i] = active[i]
            e += 1
        count = 0
        for i in range(N):
            wanted = member[t, i] or leaving[i]
            inside = wanted and not np.isnan(close[i]) and missed[i] < max_missing
            if inside and scheme >= CAP:
                if np.isnan(target[i]):
                    if scheme == CAP:
                        return t, i
                    inside = False
                elif target[i] <= 0.0:
                    inside = False
            if inside != active[i]:
                active[i] = inside
                changed = True
            count += inside
        if changed:
            for i in range(N):
                if active[i]:
                    if scheme == EQUAL:
                        unit[i] = 1.0 / close[i]
                    elif scheme == PRICE:
                        unit[i] = 1.0
                    elif scheme == CAP:
                        unit[i] = target[i]
                    else:
                        unit[i] = target[i] / close[i]
        if count > 0:
            before, s_open, s_high, s_low, s_close, dollars, traded = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False
            for i in range(N):
                if not active[i]:
                    continue
                u = unit[i]
                before += u * close[i]
                c = bars[3, t, i]
                if leaving[i]:
                    gone = u * (close[i] * (1.0 + delisting_return) + cash[i])
                    s_open += gone
                    s_high += gone
                    s_low += gone
                    s_close += gone
                elif np.isnan(c):
                    still = u * (close[i] + cash[i])
                    s_open += still
                    s_high += still
                    s_low += still
                    s_close += still
                else:
                    s_open += u * (bars[0, t, i] + cash[i])
                    s_high += u * (bars[1, t, i] + cash[i])
                    s_low += u * (bars[2, t, i] + cash[i])
                    s_close += u * (c + cash[i])
                    if not np.isnan(bars[4, t, i]):
                        dollars += c * bars[4, t, i]
                        traded = True
            scale = level[0] / before
            out[0, t] = s_open * scale
            out[3, t] = s_close * scale
            out[1, t] = max(s_high * scale, out[0, t], out[3, t])
            out[2, t] = min(s_low * scale, out[0, t], out[3, t])
            out[4, t] = dollars if traded else np.nan
            level[0] = out[3, t]
        for i in range(N):
            if leaving[i]:
                active[i] = False
                close[i] = np.nan
                leaving[i] = False
            c = bars[3, t, i]
            if np.isnan(c):
                missed[i] += 1
            else:
                close[i], missed[i], last_us[i] = c, 0, time_us[t]
            cash[i] = 0.0
    return -1, -1
