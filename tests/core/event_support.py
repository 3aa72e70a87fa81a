"""Scripted strategies, small markets and random orders for the tests of the event engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from hypothesis import strategies as st

from quantfleet.backtest import BacktestConfig
from quantfleet.backtest.events import (
    BarEvents,
    BookEvents,
    Decision,
    EventResult,
    ExecutionConfig,
    MarketView,
    Order,
    Strategy,
    TradeEvents,
)

from .backtest_support import NAN, panel, scenarios

DAY_US = 86_400_000_000


class Follow(Strategy):
    """Answers what a function of the view says."""

    def __init__(self, answer: Callable[[MarketView], Decision]) -> None:
        self.answer = answer

    def generate_signals(self, view: MarketView) -> Decision:
        return self.answer(view)


def at(script: Mapping[int, Decision]) -> Strategy:
    """Decides at the rows of a script."""
    return Follow(lambda view: script.get(view.t))


def bars(rows: list[tuple[float, float, float, float]], volume: list[float] | None = None) -> BarEvents:
    """One symbol A; rows of open, high, low, close."""
    open_T, high_T, low_T, close_T = (np.array(column)[:, None] for column in zip(*rows, strict=True))
    prices = panel(open_T, close_T)
    if volume is not None:
        prices = replace(prices, volume_TS=np.array(volume)[:, None])
    return BarEvents(prices, high_TS=high_T, low_TS=low_T)


FLAT = (100.0, 101.0, 99.0, 100.0)


def fills(result: EventResult) -> list[tuple[int, float, float]]:
    """Row, units and price of each."""
    return list(zip(result.orders.bar_N.tolist(), result.orders.units_N.tolist(), result.price_N.tolist(), strict=True))


def statuses(result: EventResult) -> list[str]:
    return result.order_history()["status"].to_list()


def moment(second: float) -> datetime:
    return datetime(2024, 5, 1, tzinfo=UTC) + timedelta(seconds=second)


def trades(rows: list[tuple[str, float, float, float]]) -> TradeEvents:
    """Rows of symbol, second, price and amount."""
    symbol, second, price, amount = zip(*rows, strict=True)
    table = pl.DataFrame(
        {
            "symbol": symbol,
            "timestamp": [moment(s) for s in second],
            "trade_id": [str(n) for n in range(len(rows))],
            "price": price,
            "amount": amount,
            "side": ["buy"] * len(rows),
        }
    )
    return TradeEvents(table.sort("symbol", "timestamp", maintain_order=True))


Levels = list[tuple[float, float]]


def book(
    rows: list[tuple[float, Levels, Levels]],
    *,
    kinds: tuple[str, ...] | None = None,
    sequences: tuple[int, ...] | None = None,
    levels: int | None = None,
) -> BookEvents:
    """Rows of second, bids and asks of symbol A; snapshots unless said otherwise."""
    table = [
        {
            "symbol": "A",
            "timestamp": moment(second),
            "sequence": n if sequences is None else sequences[n],
            "kind": "snapshot" if kinds is None else kinds[n],
            "side": side,
            "price": float(price),
            "amount": float(amount),
        }
        for n, (second, bids, asks) in enumerate(rows)
        for side, offers in (("bid", bids), ("ask", asks))
        for price, amount in offers
    ]
    return BookEvents(pl.DataFrame(table), levels=levels)


SNAPSHOT = ([(99, 2), (98, 5)], [(101, 2), (102, 3)])


@st.composite
def markets(draw: Callable[..., object]) -> tuple[BarEvents, dict[int, list[Order]], BacktestConfig, ExecutionConfig]:
    """Random bars of up to three symbols, random orders of every kind, costs, latency and bounds on volume."""
    prices, _, account = draw(scenarios(shorts=draw(st.booleans())))  # type: ignore[call-overload, misc]
    rows = len(prices.close_TS)
    volume_TS = np.where(np.isnan(prices.close_TS), NAN, 5.0)
    stretch = 1.0 + draw(st.floats(0.0, 0.2))  # type: ignore[call-overload]
    source = BarEvents(
        replace(prices, volume_TS=volume_TS),
        high_TS=np.fmax(prices.open_TS, prices.close_TS) * stretch,
        low_TS=np.fmin(prices.open_TS, prices.close_TS) / stretch,
    )
    script: dict[int, list[Order]] = {}
    listed_TS = prices.listed()
    for t in range(rows):
        for s in np.flatnonzero(listed_TS[t]).tolist():
            price = float(prices.marks_TS[t, s])
            kinds = draw(st.lists(st.sampled_from(["market", "limit", "stop", "both"]), max_size=2))  # type: ignore[call-overload]
            for kind in kinds:
                near = st.floats(0.8, 1.2).map(lambda share, price=price: share * price)  # type: ignore[misc]
                script.setdefault(t, []).append(
                    Order(
                        symbol=prices.symbols[s],
                        units=draw(st.sampled_from([-6.0, -1.0, 1.0, 6.0])),  # type: ignore[call-overload]
                        limit=draw(near) if kind in ("limit", "both") else None,  # type: ignore[call-overload]
                        stop=draw(near) if kind in ("stop", "both") else None,  # type: ignore[call-overload]
                        reduce_only=draw(st.booleans()),  # type: ignore[call-overload]
                    )
                )
    latency = draw(st.sampled_from([0, 1, DAY_US, 2 * DAY_US]))  # type: ignore[call-overload]
    share = draw(st.sampled_from([None, 0.3]))  # type: ignore[call-overload]
    costs = replace(account.costs, maker_bps=3.0)
    return source, script, replace(account, costs=costs), ExecutionConfig(latency_us=latency, max_volume_share=share)
