"""The compiled loops that trade entry and exit signals. What they decide is at the head of `signals.py`.

Shapes: P portfolios, S symbols, T bars, N orders filled. A row of signals is read 64 bars at a time until one is found, so that
time goes with the number of trades rather than with the number of bars.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from quantfleet.compiled import compiled
from quantfleet.ledger import kernel, terms

__all__ = ["measure", "replay", "trade_signals"]

_BLOCK = 64


@njit(cache=True, nogil=True)
def _next(wanted_T: Any, other_T: Any, start: int, stop: int) -> Any:
    """The first bar in [start, stop) where `wanted_T` is set and `other_T` is not; `stop` when there is none."""
    t = start
    while t < stop:
        if t + _BLOCK <= stop:
            found = False
            for k in range(_BLOCK):
                found |= wanted_T[t + k]
            if not found:
                t += _BLOCK
                continue
        for k in range(t, min(t + _BLOCK, stop)):
            if wanted_T[k] and not other_T[k]:
                return k
        t += _BLOCK
    return stop


@njit(cache=True, nogil=True)
def _fill_bar(open_T: Any, volume_T: Any, wanted_T: Any, other_T: Any, decided: int) -> Any:
    """The bar at whose open a decision is filled, or where the opposite decision came first, and whether it is filled."""
    for t in range(decided + 1, open_T.size):
        if not math.isnan(open_T[t]) and (volume_T.size == 0 or volume_T[t - 1] > 0.0):
            return t, True
        if other_T[t] and not wanted_T[t]:
            return t, False
    return open_T.size, False


@njit(cache=True, nogil=True)
def _trade(
    open_T: Any,
    volume_T: Any,
    first: int,
    entries_T: Any,
    exits_T: Any,
    part: float,
    lot: float,
    tick: float,
    terms: Any,
    t: int,
    cash: float,
    held: float,
    bar_N: Any,
    units_N: Any,
    cash_N: Any,
    orders: int,
) -> Any:
    """Trade one portfolio from bar t on, until the bars or the log end.

    Returns: how the account stands (`t` is past the last bar when it is done), how many orders are logged, and the bar of an entry
    before the first price, or -1.
    """
    bars = open_T.size
    while orders < bar_N.size:
        if held == 0.0:
            decided = _next(entries_T, exits_T, t, bars)
            if decided < first:
                return t, cash, held, orders, decided
            filled, stands = _fill_bar(open_T, volume_T, entries_T, exits_T, decided)
        else:
            decided = _next(exits_T, entries_T, t, bars)
            filled, stands = _fill_bar(open_T, volume_T, exits_T, entries_T, decided)
        if filled >= bars:
            return bars, cash, held, orders, -1
        if not stands:
            t = filled + 1
            continue
        market = open_T[filled]
        volume = volume_T[filled - 1] if volume_T.size > 0 else 1.0
        order = -held if held != 0.0 else part * kernel.affordable(cash, market, terms)
        traded, _, cash = kernel.fill_one(cash, held, order, market, volume, lot, tick, terms)
        if traded != 0.0:
            held += traded
            bar_N[orders], units_N[orders], cash_N[orders] = filled, traded, cash
            orders += 1
        t = filled
    return t, cash, held, orders, -1


@compiled(kernel, terms)
def trade_signals(
    open_ST: Any,
    volume_ST: Any,
    first_S: Any,
    symbol_P: Any,
    entries_PT: Any,
    exits_PT: Any,
    stop: int,
    capital: float,
    part: float,
    terms: Any,
    at: Any,
    orders_P: Any,
    bar_N: Any,
    units_N: Any,
    cash_N: Any,
) -> Any:
    """Trade portfolios up to `stop`, or until the log is full.

    Args:
        volume_ST: no rows without impact.
        at: where to go on, brought up to date: portfolio, bar, cash, units.
        orders_P: how many orders each filled; those of this call are added.
        bar_N, units_N, cash_N: the log, written from its start: bar, signed units, and cash afterwards.
    Returns: how many orders were logged; the bar of an entry before the first price, or -1.
    """
    p, t, cash, held = int(at[0]), int(at[1]), at[2], at[3]
    bars, orders, early = open_ST.shape[1], 0, -1
    while p < stop and early < 0:
        s, before = symbol_P[p], orders
        volume_T = volume_ST[s] if volume_ST.shape[0] > 0 else volume_ST.reshape(-1)
        t, cash, held, orders, early = _trade(
            open_ST[s],
            volume_T,
            first_S[s],
            entries_PT[p],
            exits_PT[p],
            part,
            terms.lot_S[s] if terms.lot_S.size > 0 else 0.0,
            terms.tick_S[s] if terms.tick_S.size > 0 else 0.0,
            terms,
            t,
            cash,
            held,
            bar_N,
            units_N,
            cash_N,
            orders,
        )
        orders_P[p] += orders - before
        if t < bars and orders >= bar_N.size:
            break
        if early < 0:
            p, t, cash, held = p + 1, 0, capital, 0.0
    at[0], at[1], at[2], at[3] = p, t, cash, held
    return orders, early


@njit(cache=True, nogil=True)
def replay(marks_T: Any, bar_N: Any, units_N: Any, cash_N: Any, capital: float, equity_T: Any, cash_T: Any) -> None:
    """Write equity and cash at each close from the orders of one portfolio."""
    cash, held, n = capital, 0.0, 0
    for t in range(marks_T.size):
        if n < bar_N.size and bar_N[n] == t:
            held += units_N[n]
            cash = cash_N[n]
            n += 1
        cash_T[t] = cash
        equity_T[t] = cash + held * marks_T[t]


@njit(cache=True, nogil=True)
def measure(
    marks_ST: Any,
    symbol_P: Any,
    end_P: Any,
    bar_N: Any,
    units_N: Any,
    cash_N: Any,
    capital: float,
    start: int,
    stop: int,
    measures_P3: Any,
) -> None:
    """Write total return, Sharpe ratio per bar and largest drawdown, as `quantfleet.evaluation` defines them, from the orders.

    Bars without a position return nothing and are not looked at.

    Args:
        end_P: where the orders of each portfolio end in the log.
    """
    bars = marks_ST.shape[1]
    for p in range(start, stop):
        marks_T = marks_ST[symbol_P[p]]
        cash, held, before, peak, worst = capital, 0.0, capital, capital, 0.0
        total = squares = 0.0
        last = end_P[p]
        n = end_P[p - 1] if p > 0 else 0
        while n < last:
            first = bar_N[n]
            held += units_N[n]
            cash = cash_N[n]
            n += 1
            until = bar_N[n] if n < last else bars
            if held == 0.0:
                until = first + 1
            floor = peak * (1.0 - worst)
            for t in range(first, until):
                equity = cash + held * marks_T[t]
                gain = equity / before - 1.0
                total += gain
                squares += gain * gain
                before = equity
                if equity > peak:
                    peak = equity
                    floor = peak * (1.0 - worst)
                elif equity < floor:
                    worst = 1.0 - equity / peak
                    floor = equity
        measures_P3[p, 0] = before / capital - 1.0
        variance = (squares - total * total / bars) / (bars - 1)
        measures_P3[p, 1] = total / bars / math.sqrt(variance) if squares > 0.0 and variance > 0.0 else math.nan
        measures_P3[p, 2] = worst
