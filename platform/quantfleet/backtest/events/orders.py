"""Orders at work: what the engine knows of an order beyond what was asked, and how far prices let it trade."""

from __future__ import annotations

import math
from enum import StrEnum

from quantfleet.backtest.events.base import Order

__all__ = ["Chance", "OrderStatus", "Working", "limit_allows", "on_the_safe_tick", "reduced", "stop_touched", "whole"]

_WHOLE = 1e-9
"""How near to a whole number of steps counts as whole, as in `quantfleet.ledger.kernel`."""


class OrderStatus(StrEnum):
    """Where an order stands."""

    OPEN = "open"
    FILLED = "filled"
    CANCELLED = "cancelled"
    """By the strategy, its group, its time in force, a margin call, or because nothing of it could be traded or paid for."""


class Working:
    """An order on its way or in the book. Strategies read it; only the engine writes."""

    __slots__ = (
        "arrives_us",
        "day",
        "decided_row",
        "filled",
        "fresh",
        "id",
        "limit",
        "number",
        "order",
        "s",
        "status",
        "stop",
        "triggered",
        "units",
    )

    def __init__(
        self, order: Order, *, number: int, name: str, s: int, units: float, decided_row: int, arrives_us: int
    ) -> None:
        self.order = order
        self.number = number
        """How many orders were given before it."""
        self.id = name
        self.s = s
        """Column of its symbol."""
        self.units = units
        """Signed, as ordered."""
        self.filled = 0.0
        self.limit = order.limit
        self.stop = order.stop
        self.decided_row = decided_row
        self.arrives_us = arrives_us
        self.day = -1
        """Number of the UTC day on which it reached the market."""
        self.fresh = True
        """Whether it has not yet seen a price: it may cross the spread, and pay the taker's fee."""
        self.triggered = order.stop is None
        self.status = OrderStatus.OPEN

    @property
    def remaining(self) -> float:
        """Signed units still to trade."""
        return self.units - self.filled

    @property
    def waits_for_stop(self) -> bool:
        """Whether its stop was not touched yet."""
        return not self.triggered


class Chance:
    """A fill that prices allow, and what the ledger made of it."""

    __slots__ = ("maker", "price", "s", "traded", "units", "working")

    def __init__(self, working: Working | None, s: int, units: float, price: float, maker: bool) -> None:
        self.working = working
        """None for a target weight."""
        self.s = s
        self.units = units
        self.price = price
        """Of the market, before slippage; for a maker its limit or better."""
        self.maker = maker
        self.traded = 0.0


def stop_touched(buy: bool, stop: float, price: float) -> bool:
    """Whether a price sets off a stop: a buy from below, a sale from above."""
    return price >= stop if buy else price <= stop


def limit_allows(buy: bool, limit: float, price: float, *, beyond: bool = False) -> bool:
    """Whether a price is as good as the limit, or better where it must be beyond."""
    if beyond:
        return price < limit if buy else price > limit
    return price <= limit if buy else price >= limit


def reduced(units: float, held: float) -> float:
    """The part of an order that takes a position towards zero."""
    return min(units, max(-held, 0.0)) if units > 0.0 else max(units, min(-held, 0.0))


def whole(units: float, lot: float) -> float:
    """Units of at least 0 rounded down to lots; lot 0 for none."""
    return math.floor(units / lot + _WHOLE) * lot if lot > 0.0 and units < math.inf else units


def on_the_safe_tick(buy: bool, limit: float, tick: float) -> float:
    """A limit moved to the grid of prices so that it is not broken: down for a buy, up for a sale."""
    if tick <= 0.0:
        return limit
    return math.floor(limit / tick + _WHOLE) * tick if buy else math.ceil(limit / tick - _WHOLE) * tick
