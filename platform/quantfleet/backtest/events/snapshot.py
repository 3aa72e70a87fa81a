"""The event engine as JSON values: what it did in a row, and what it must remember to go on after it.

Numbers pass through JSON to the last bit. What is not a number has a form of its own, so that any reader of JSON reads it: a
missing volume is null, a target that is not set is left out.

Shapes: S symbols.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from quantfleet.backtest.events.base import BarEvent, Cancel, Fill, Order
from quantfleet.backtest.events.engine import EventEngine
from quantfleet.backtest.events.growing import GrowingBars
from quantfleet.backtest.events.orders import OrderStatus, Working

__all__ = ["RowLog", "engine_state", "order_record", "restore_engine"]

Json = dict[str, Any]

_WITHDRAW = "withdraw"
"""A target within the band: it only takes back what still waits."""


class RowLog:
    """Tells after each row what the engine did in it. Not thread-safe; one an engine."""

    def __init__(self, engine: EventEngine) -> None:
        self._engine = engine
        self._open = {w.number: order_record(w) for w in engine.working if w.status is OrderStatus.OPEN}
        self._at = self._counts()

    def _counts(self) -> tuple[int, int, int, int]:
        engine = self._engine
        return len(engine.books.fills), len(engine.books.charges), len(engine.calls), len(engine.working)

    def row(self) -> Json:
        """Of the rows since the last call, which should be one: fills, orders that are new or have changed, what was charged."""
        engine, books = self._engine, self._engine.books
        fills, charges, calls, orders = self._at
        self._at = self._counts()
        changed: list[Json] = []
        for number in (*self._open, *range(orders, len(engine.working))):
            w = engine.working[number]
            record = order_record(w)
            if record != self._open.get(number):
                changed.append(record)
                self._open[number] = record
        self._open = {n: r for n, r in self._open.items() if engine.working[n].status is OrderStatus.OPEN}
        return {
            "fills": [
                {**asdict(fill), "market": books.markets[k]} for k, fill in enumerate(books.fills[fills:], start=fills)
            ],
            "orders": changed,
            "charges": [list(paid) for _, *paid in books.charges[charges:]],
            "margin_call": len(engine.calls) > calls,
            "cash": books.cash,
        }


def order_record(w: Working) -> Json:
    """An order as it stands."""
    return {
        "number": w.number,
        "id": w.id,
        **{name: value for name, value in asdict(w.order).items() if name not in ("id", "units")},
        "ordered": w.order.units,
        "ordered_limit": w.order.limit,
        "ordered_id": w.order.id,
        "units": w.units,
        "limit": w.limit,
        "filled": w.filled,
        "status": str(w.status),
        "decided_row": w.decided_row,
        "arrives_us": w.arrives_us,
        "day": w.day,
        "fresh": w.fresh,
        "triggered": w.triggered,
    }


def _order(record: Mapping[str, Any], s: int) -> Working:
    order = Order(
        symbol=record["symbol"],
        units=record["ordered"],
        weight=record["weight"],
        limit=record["ordered_limit"],
        stop=record["stop"],
        time_in_force=record["time_in_force"],
        reduce_only=record["reduce_only"],
        group=record["group"],
        id=record["ordered_id"],
    )
    w = Working(
        order,
        number=record["number"],
        name=record["id"],
        s=s,
        units=record["units"],
        decided_row=record["decided_row"],
        arrives_us=record["arrives_us"],
    )
    w.limit, w.filled, w.status = record["limit"], record["filled"], OrderStatus(record["status"])
    w.day, w.fresh, w.triggered = record["day"], record["fresh"], record["triggered"]
    return w


def engine_state(engine: EventEngine) -> Json:
    """What the rows' logs do not say and the next row depends on."""
    books, market, symbols = engine.books, engine.market, engine.source.prices.symbols
    arriving: list[Json] = []
    for time_us, item in engine.arriving:
        what: Json
        if isinstance(item, Working):
            what = {"order": item.number}
        elif isinstance(item, Cancel):
            what = {"cancel": item.id}
        else:
            what = {"targets": {name: _WITHDRAW if math.isinf(x) else x for name, x in _known(symbols, item).items()}}
        arriving.append({"at_us": time_us, **what})
    return {
        "cash": books.cash,
        "units": dict(zip(symbols, books.units_S.tolist(), strict=True)),
        "marks": dict(zip(symbols, books.mark_S.tolist(), strict=True)),
        "ruined": engine.ruined,
        "targets": _known(symbols, market.target_S),
        "waiting": market.count,
        "resting": [[w.number for w in own] for own in market.resting],
        "by_id": [w.number for w in engine.by_id.values()],
        "arriving": arriving,
        "orders": [order_record(w) for w in engine.working if w.status is OrderStatus.OPEN],
    }


def _known(symbols: tuple[str, ...], values_S: Any) -> dict[str, float]:
    return {name: x for name, x in zip(symbols, values_S.tolist(), strict=True) if not math.isnan(x)}


def restore_engine(
    engine: EventEngine,
    source: GrowingBars,
    rows: Iterable[tuple[np.datetime64, Mapping[str, BarEvent], Json]],
    state: Json,
) -> None:
    """Bring a new engine, and its empty source, to where `engine_state` was taken; then it goes on as if it had never stopped.

    Args:
        rows: time, bars and log of every row.
    """
    books, market, symbols = engine.books, engine.market, source.prices.symbols
    column = {name: s for s, name in enumerate(symbols)}
    records: dict[int, Json] = {}
    for t, (time, bars, log) in enumerate(rows):
        source.append(time, bars)
        for fill in log["fills"]:
            books.fills.append(Fill(**{name: value for name, value in fill.items() if name != "market"}))
            books.markets.append(fill["market"])
            books.columns.append(column[fill["symbol"]])
        books.charges += [(t, *paid) for paid in log["charges"]]
        books.cash_changes.append((t, log["cash"]))
        engine.calls += [t] if log["margin_call"] else []
        records.update((record["number"], record) for record in log["orders"])
    engine.working += [_order(records[n], column[records[n]["symbol"]]) for n in range(len(records))]
    books.cash = state["cash"]
    books.units_S[:] = [state["units"][name] for name in symbols]
    books.mark_S[:] = [state["marks"][name] for name in symbols]
    books.held = bool(books.units_S.any())
    market.target_S[:] = [state["targets"].get(name, math.nan) for name in symbols]
    market.count = state["waiting"]
    market.resting = [[engine.working[n] for n in own] for own in state["resting"]]
    engine.ruined = state["ruined"]
    engine.by_id = {(w := engine.working[n]).id: w for n in state["by_id"]}
    for item in state["arriving"]:
        what: Any
        if "order" in item:
            what = engine.working[item["order"]]
        elif "cancel" in item:
            what = Cancel(item["cancel"])
        else:
            wanted = {name: math.inf if x == _WITHDRAW else x for name, x in item["targets"].items()}
            what = np.array([wanted.get(name, math.nan) for name in symbols])
        engine.arriving.append((item["at_us"], what))
    engine.see_rows()
    engine.rows = source.prices.rows
