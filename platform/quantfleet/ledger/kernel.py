"""The arithmetic of the books, compiled. Everything that moves money calls these functions: `Account`, the backtest engines.

Shapes: S symbols of one portfolio. All arrays are C-contiguous float64; NaN is a price that is not there. Whoever calls has
checked that prices are positive and orders finite. The rules are at the head of `account.py`.

`fill_many` books the orders of a whole portfolio at one moment, `fill_one` the order of an account that trades one symbol; they
are built of the same scalar functions. Sums may be added in any order (`reassoc`), which is all that the compiler is allowed:
the last bit of a sum may differ between processors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from quantfleet.ledger.terms import DUST

__all__ = [
    "accrue",
    "affordable",
    "equity_of",
    "fill_each",
    "fill_many",
    "fill_one",
    "free_capital",
    "longs_and_shorts",
    "margin_call",
    "mark_equity",
    "prices_paid",
]

_WHOLE = 1e-9
"""How near to a whole number of lots or ticks counts as whole, in lots or ticks."""


@njit(cache=True, nogil=True)
def _fill_price(units: float, market: float, slippage: float) -> Any:
    return market * (1.0 - slippage) if units < 0.0 else market * (1.0 + slippage)


@njit(cache=True, nogil=True)
def _impact(units: float, volume: float, impact: float) -> Any:
    return impact * math.sqrt(abs(units) / volume)


@njit(cache=True, nogil=True)
def _on_tick(units: float, price: float, tick: float) -> Any:
    """The next price on the grid that is no better: up for a buy, down for a sale, but never to nothing."""
    if units < 0.0:
        return max(math.floor(price / tick + _WHOLE), 1.0) * tick
    return math.ceil(price / tick - _WHOLE) * tick


@njit(cache=True, nogil=True)
def _price_for(units: float, market: float, volume: float, tick: float, terms: Any) -> Any:
    """Fill price of an order of this size; `tick` 0 for none, `volume` read where there is impact."""
    slippage = terms.slippage
    if terms.impact > 0.0:
        slippage = min(slippage + _impact(units, volume, terms.impact), 1.0) if units != 0.0 else slippage
    price = _fill_price(units, market, slippage)
    return _on_tick(units, price, tick) if tick > 0.0 else price


@njit(cache=True, nogil=True)
def _whole_lots(units: float, lot: float) -> Any:
    """Rounded towards zero."""
    return math.copysign(math.floor(abs(units) / lot + _WHOLE) * lot, units)


@njit(cache=True, nogil=True)
def _reduction(order: float, held: float) -> Any:
    """The part of an order that takes a position towards zero."""
    return min(max(order, min(-held, 0.0)), max(-held, 0.0))


@njit(cache=True, nogil=True)
def _capital_per_unit(opened: float, fill: float, market: float, commission: float, leverage: float) -> Any:
    """What opening a unit takes of the free capital: its market value, and `leverage` times what it costs in equity.

    Without leverage, a unit bought takes its price and fee; one sold short locks twice its value less the proceeds.
    """
    if opened > 0.0:
        return market * (1.0 - leverage) + leverage * fill * (1.0 + commission)
    return market * (1.0 + leverage) - leverage * fill * (1.0 - commission)


@njit(cache=True, nogil=True)
def _free(cash: float, long: float, short: float, leverage: float) -> Any:
    """`leverage` times the equity, less longs and shorts; written so that nothing cancels without leverage."""
    return leverage * cash + (leverage - 1.0) * long - (leverage + 1.0) * short


@njit(cache=True, nogil=True)
def _share(free: float, needed: float, noise: float) -> Any:
    """How much of the openings the free capital can carry."""
    if needed <= 0.0:
        return 1.0
    share = min(max(free / needed, 0.0), 1.0)
    return share if share * needed >= noise else 0.0


@njit(cache=True, nogil=True)
def _is_dust(order: float, held: float, market: float, noise: float) -> Any:
    return (abs(order) * market < noise) & (order != -held)


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def longs_and_shorts(units_S: Any, mark_S: Any) -> Any:
    """Value of the longs and of the shorts, both at least 0."""
    long = short = 0.0
    for s in range(units_S.size):
        value = units_S[s] * mark_S[s]
        long += max(value, 0.0)
        short += max(-value, 0.0)
    return long, short


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def equity_of(cash: float, units_S: Any, mark_S: Any) -> Any:
    """Cash plus the value of all positions."""
    value = 0.0
    for s in range(units_S.size):
        value += units_S[s] * mark_S[s]
    return cash + value


@njit(cache=True, nogil=True)
def free_capital(cash: float, units_S: Any, mark_S: Any, leverage: float) -> Any:
    """Money that can open positions: how far the gross exposure may still grow."""
    long, short = longs_and_shorts(units_S, mark_S)
    return _free(cash, long, short, leverage)


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def mark_equity(cash: float, units_S: Any, mark_S: Any, price_S: Any) -> Any:
    """Take market prices, NaN keeps the last known one; returns the equity at them."""
    value = 0.0
    for s in range(units_S.size):
        mark_S[s] = mark_S[s] if math.isnan(price_S[s]) else price_S[s]
        value += units_S[s] * mark_S[s]
    return cash + value


@njit(cache=True, nogil=True)
def accrue(cash: float, units_S: Any, mark_S: Any, funding_S: Any, borrow: float, margin: float) -> Any:
    """What holding cost since the last call: fee on shorts, interest on money owed, funding of perpetual futures.

    Args:
        funding_S: what longs pay to shorts, as a share of the value; NaN for nothing, no elements where there is none.
        borrow, margin: rates for the time that passed.
    Returns: borrow fee (at least 0), margin interest (at least 0), funding paid (negative when received).
    """
    _, short = longs_and_shorts(units_S, mark_S)
    paid = 0.0
    for s in range(funding_S.size):
        if not math.isnan(funding_S[s]):
            paid += units_S[s] * mark_S[s] * funding_S[s]
    return short * borrow, max(-cash, 0.0) * margin, paid


@njit(cache=True, nogil=True)
def margin_call(equity: float, units_S: Any, mark_S: Any, maintenance: float) -> Any:
    """Whether the equity is gone, or below the share `maintenance` of the gross exposure."""
    if equity <= 0.0 or maintenance <= 0.0:
        return equity <= 0.0
    long, short = longs_and_shorts(units_S, mark_S)
    return equity < maintenance * (long + short)


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _after_reductions(cash: float, units_S: Any, mark_S: Any, reduce_S: Any, fill_S: Any, commission: float) -> Any:
    """Cash, longs and shorts once the reductions are booked."""
    long = short = 0.0
    for s in range(units_S.size):
        traded = reduce_S[s] * fill_S[s]
        cash -= traded + abs(traded) * commission
        value = (units_S[s] + reduce_S[s]) * mark_S[s]
        long += max(value, 0.0)
        short += max(-value, 0.0)
    return cash, long, short


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _needed(open_S: Any, fill_S: Any, mark_S: Any, commission: float, leverage: float) -> Any:
    """Capital that all openings together take."""
    needed = 0.0
    for s in range(open_S.size):
        opened = open_S[s]
        needed += abs(opened) * _capital_per_unit(opened, fill_S[s], mark_S[s], commission, leverage)
    return needed


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _spent(traded_S: Any, fill_S: Any, mark_S: Any, commission: float) -> Any:
    """Money that leaves the account, fees in it, and slippage."""
    paid = fees = lost = 0.0
    for s in range(traded_S.size):
        value = traded_S[s] * fill_S[s]
        paid += value
        fees += abs(value) * commission
        lost += abs(traded_S[s] * (fill_S[s] - mark_S[s]))
    return paid, fees, lost


@njit(cache=True, nogil=True)
def fill_many(
    cash: float,
    units_S: Any,
    mark_S: Any,
    order_S: Any,
    price_S: Any,
    volume_S: Any,
    terms: Any,
    traded_S: Any,
    fill_S: Any,
    open_S: Any,
) -> Any:
    """Fill market orders of one portfolio at one moment.

    Args:
        units_S, mark_S: positions and last known prices; both are brought up to date.
        order_S: signed units to trade, 0 for none.
        price_S: market prices; a symbol whose price is NaN does not trade.
        volume_S: units that the market traded in the last bar, above 0 where there is an order; read with impact only.
        traded_S, fill_S: written: units traded (0 for none) and price paid, shape (S,).
        open_S: room to work in, shape (S,).
    Returns: cash, fees paid and slippage of these fills.
    """
    noise = DUST * max(mark_equity(cash, units_S, mark_S, price_S), 0.0)
    commission, leverage = terms.commission, terms.leverage
    # Short loops over few arrays each: these the compiler turns into vector code.
    for s in range(units_S.size):
        order = 0.0 if math.isnan(price_S[s]) else order_S[s]
        open_S[s] = 0.0 if _is_dust(order, units_S[s], mark_S[s], noise) else order
    for s in range(units_S.size):
        fill_S[s] = _fill_price(open_S[s], mark_S[s], terms.slippage)
    for s in range(units_S.size):
        traded_S[s] = _reduction(open_S[s], units_S[s])
    for s in range(units_S.size):
        open_S[s] -= traded_S[s]
    if terms.impact > 0.0 or terms.tick_S.size > 0:
        for s in range(units_S.size):
            tick = terms.tick_S[s] if terms.tick_S.size > 0 else 0.0
            volume = volume_S[s] if terms.impact > 0.0 else 1.0
            fill_S[s] = _price_for(traded_S[s] + open_S[s], mark_S[s], volume, tick, terms)
    if terms.lot_S.size > 0:
        for s in range(units_S.size):
            if traded_S[s] != -units_S[s]:
                traded_S[s] = _whole_lots(traded_S[s], terms.lot_S[s])
    after, long, short = _after_reductions(cash, units_S, mark_S, traded_S, fill_S, commission)
    needed = _needed(open_S, fill_S, mark_S, commission, leverage)
    share = _share(_free(after, long, short, leverage), needed, noise)
    for s in range(units_S.size):
        opened = share * open_S[s]
        if terms.lot_S.size > 0:
            opened = _whole_lots(opened, terms.lot_S[s])
        traded_S[s] += opened
    if terms.impact > 0.0:
        for s in range(units_S.size):
            tick = terms.tick_S[s] if terms.tick_S.size > 0 else 0.0
            fill_S[s] = _price_for(traded_S[s], mark_S[s], volume_S[s], tick, terms)
    paid, fees, lost = _spent(traded_S, fill_S, mark_S, commission)
    for s in range(units_S.size):
        units_S[s] += traded_S[s]
    return cash - (paid + fees), fees, lost


@njit(cache=True, nogil=True)
def fill_one(
    cash: float, held: float, order: float, market: float, volume: float, lot: float, tick: float, terms: Any
) -> Any:
    """Fill a market order of an account that trades one symbol; as `fill_many` over that symbol.

    Args:
        lot, tick: of this symbol, 0 for none; those of `terms` are not read.
    Returns: units traded, price paid and cash.
    """
    noise = DUST * max(cash + held * market, 0.0)
    if _is_dust(order, held, market, noise):
        return 0.0, _fill_price(0.0, market, terms.slippage), cash
    fill = _price_for(order, market, volume, tick, terms)
    traded = _reduction(order, held)
    opened = order - traded
    if lot > 0.0 and traded != -held:
        traded = _whole_lots(traded, lot)
    if opened != 0.0:
        freed = traded * fill
        after = cash - (freed + abs(freed) * terms.commission)
        value = (held + traded) * market
        needed = abs(opened) * _capital_per_unit(opened, fill, market, terms.commission, terms.leverage)
        free = _free(after, max(value, 0.0), max(-value, 0.0), terms.leverage)
        opened = _share(free, needed, noise) * opened
        traded += _whole_lots(opened, lot) if lot > 0.0 else opened
        if terms.impact > 0.0:
            fill = _price_for(traded, market, volume, tick, terms)
    value = traded * fill
    return traded, fill, cash - (value + abs(value) * terms.commission)


@njit(cache=True, nogil=True)
def affordable(cash: float, market: float, terms: Any) -> Any:
    """Units that an account without positions can buy with all its capital, before impact, ticks and lots."""
    fill = _fill_price(1.0, market, terms.slippage)
    return _free(cash, 0.0, 0.0, terms.leverage) / _capital_per_unit(
        1.0, fill, market, terms.commission, terms.leverage
    )


@njit(cache=True, nogil=True)
def prices_paid(traded_N: Any, symbol_N: Any, market_N: Any, volume_N: Any, terms: Any) -> Any:
    """The prices at which `fill_many` and `fill_one` filled N orders, from what was traded: a log need not hold them.

    Args:
        volume_N: read with impact only.
    """
    fill_N = np.empty(traded_N.size)
    for n in range(traded_N.size):
        tick = terms.tick_S[symbol_N[n]] if terms.tick_S.size > 0 else 0.0
        volume = volume_N[n] if terms.impact > 0.0 else 1.0
        fill_N[n] = _price_for(traded_N[n], market_N[n], volume, tick, terms)
    return fill_N


@njit(cache=True, nogil=True)
def fill_each(
    cash_P: Any,
    units_PS: Any,
    mark_S: Any,
    order_PS: Any,
    price_S: Any,
    volume_S: Any,
    terms: Any,
    traded_PS: Any,
    fill_PS: Any,
    fees_P: Any,
    lost_P: Any,
) -> None:
    """`fill_many` for each of P portfolios; writes what was traded and paid, fees and slippage, and the accounts."""
    open_S = np.empty(units_PS.shape[1])
    for p in range(units_PS.shape[0]):
        cash_P[p], fees_P[p], lost_P[p] = fill_many(
            cash_P[p],
            units_PS[p],
            mark_S,
            order_PS[p],
            price_S,
            volume_S,
            terms,
            traded_PS[p],
            fill_PS[p],
            open_S,
        )
