"""The compiled loop over bars that trades target weights. What it decides is at the head of `vectorised.py`.

Shapes: T bars, S symbols, D decisions of one strategy, N orders filled. All arrays are C-contiguous.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from quantfleet.backtest import targets
from quantfleet.compiled import compiled
from quantfleet.ledger import kernel, risk_kernel, terms

__all__ = [
    "BOOKS",
    "BORROW",
    "CALLED",
    "CASH",
    "EQUITY",
    "FUNDING",
    "HALTED",
    "INTEREST",
    "STOPS",
    "trade_weights",
]

EQUITY, CASH, BORROW, INTEREST, FUNDING, CALLED, STOPS, HALTED = range(8)
"""Rows of the books."""
BOOKS = 8


@njit(cache=True, nogil=True)
def _shut_out(weight_S: Any, units_S: Any, shut_S: Any, target_S: Any) -> Any:
    """Keep a row of weights from what stops have shut, and close it; returns how many orders that makes.

    A symbol opens again when the row asks for nothing of it, or for its other side.
    """
    closed = 0
    for s in range(weight_S.size):
        if shut_S[s] == 0.0:
            continue
        if weight_S[s] * shut_S[s] > 0.0 or math.isnan(weight_S[s]):
            weight_S[s] = np.nan
            target_S[s] = 0.0 if units_S[s] != 0.0 else np.nan
            closed += units_S[s] != 0.0
        else:
            shut_S[s] = 0.0
    return closed


@compiled(kernel, risk_kernel, targets, terms)
def trade_weights(
    open_TS: Any,
    close_TS: Any,
    volume_TS: Any,
    funding_TS: Any,
    years_T: Any,
    bar_D: Any,
    weight_DS: Any,
    day_T: Any,
    marks_TS: Any,
    rules: Any,
    limits: Any,
    terms: Any,
    books_KT: Any,
    fills_T: Any,
    symbol_N: Any,
    traded_N: Any,
) -> Any:
    """Trade one strategy over all bars.

    Args:
        volume_TS, funding_TS: no rows where there is no impact, no funding.
        years_T: time since the bar before, in years.
        bar_D: bars at whose close a decision is made, rising.
        day_T: number of each bar's day.
        marks_TS: last known closes; no rows where no rule needs a window of them.
        rules: `vectorised.Rules`.
        limits: `quantfleet.ledger.risk.Limits`, or None; then nothing of risk rules is even compiled.
        books_KT: zeros, written: rows EQUITY and CASH at each close, BORROW, INTEREST and FUNDING paid in each bar; CALLED, 1
            where the close is a margin call; STOPS, positions whose stop was hit; HALTED, what `decide_halt` says.
        fills_T: zeros, written; how many orders were filled in each bar.
        symbol_N, traded_N: the order log, written from its start; room for one order a bar and symbol. Prices are not logged:
            `kernel.prices_paid` knows them.
    Returns: how many orders were filled; why a row of weights is refused (0 for not at all), and its number.
    """
    bars, width = open_TS.shape
    units_S, mark_S, target_S = np.zeros(width), np.zeros(width), np.full(width, np.nan)
    order_S, traded_S, fill_S, open_S = np.empty(width), np.empty(width), np.empty(width), np.empty(width)
    price_S, nothing_S = np.empty(width), funding_TS[:0].reshape(-1)
    weight_S, held_S = np.full(width, np.nan), np.zeros(width)
    entry_S, best_S, shut_S = np.zeros(width), np.zeros(width), np.zeros(width)
    cash, orders, decision, waiting, ruined = rules.capital, 0, 0, 0, False
    peak, day_began, before_equity, halt, stopped = cash, cash, cash, 0, 0
    accrues = rules.borrow_per_year > 0.0 or rules.margin_per_year > 0.0 or funding_TS.shape[0] > 0
    for t in range(bars):
        if accrues:
            rate_S = funding_TS[t] if funding_TS.shape[0] > 0 else nothing_S
            borrow, margin = rules.borrow_per_year * years_T[t], rules.margin_per_year * years_T[t]
            fee, interest, paid = kernel.accrue(cash, units_S, mark_S, rate_S, borrow, margin)
            cash -= fee + interest + paid
            books_KT[BORROW, t], books_KT[INTEREST, t], books_KT[FUNDING, t] = fee, interest, paid
        if waiting:
            volume_S = volume_TS[max(t - 1, 0)] if volume_TS.shape[0] > 0 else nothing_S
            for s in range(width):
                price_S[s] = open_TS[t, s]
            if volume_S.size > 0:
                kernel.mark_equity(cash, units_S, mark_S, open_TS[t])
            for s in range(volume_S.size):
                price_S[s] = price_S[s] if volume_S[s] > 0.0 else np.nan
            for s in range(width):
                order_S[s] = 0.0 if math.isnan(target_S[s]) else target_S[s] - units_S[s]
            cash, _, _ = kernel.fill_many(
                cash, units_S, mark_S, order_S, price_S, volume_S, terms, traded_S, fill_S, open_S
            )
            waiting = 0
            for s in range(width):
                target_S[s] = target_S[s] if math.isnan(price_S[s]) else np.nan
                waiting += not math.isnan(target_S[s])
            before = orders
            for s in range(width):
                if traded_S[s] != 0.0:
                    symbol_N[orders], traded_N[orders] = s, traded_S[s]
                    orders += 1
            fills_T[t] = orders - before
            if limits is not None:
                risk_kernel.track_entries(units_S, traded_S, fill_S, entry_S, best_S)
        equity = kernel.mark_equity(cash, units_S, mark_S, close_TS[t])
        books_KT[EQUITY, t], books_KT[CASH, t] = equity, cash
        called = kernel.margin_call(equity, units_S, mark_S, rules.maintenance)
        books_KT[CALLED, t] = called
        ruined = ruined or equity <= 0.0
        if limits is not None:
            peak = max(peak, equity)
            if t > 0 and day_T[t] != day_T[t - 1]:
                day_began = before_equity
                halt = halt if halt == risk_kernel.DRAWN_DOWN else risk_kernel.GOING_ON
            halt = max(halt, risk_kernel.decide_halt(equity, peak, day_began, limits))
            before_equity = equity
            stopped = risk_kernel.check_stops(units_S, mark_S, entry_S, best_S, shut_S, limits)
            books_KT[HALTED, t], books_KT[STOPS, t] = halt, stopped
        decides = decision < bar_D.size and bar_D[decision] == t
        if decides:
            refusal = targets.find_refusal(weight_DS[decision], mark_S, terms.leverage, rules.allow_short)
            if refusal:
                return orders, refusal, decision
            for s in range(width):
                weight_S[s] = weight_DS[decision, s]
            decision += 1
        if ruined or called or halt:
            waiting = targets.close_all(units_S, target_S)
            continue
        if limits is not None:
            if not decides:
                weight_S[:] = np.nan
            if stopped or decides:
                waiting += _shut_out(weight_S, units_S, shut_S, target_S)
            if decides:
                for s in range(width):
                    held_S[s] = units_S[s] * mark_S[s] / equity
                marks_WS = marks_TS[max(t - limits.window_bars, 0) : t + 1]
                risk_kernel.shape_weights(weight_S, held_S, marks_WS, terms.leverage, limits)
        if decides:
            waiting += targets.size_targets(weight_S, equity, units_S, mark_S, rules.band, target_S)
    return orders, 0, -1
