"""The event engine: bars, trades or books to a strategy of one's own, orders that wait, fill in parts and arrive late."""

from quantfleet.backtest.events.base import (
    BarEvent,
    BookEvent,
    Cancel,
    Decision,
    ExecutionConfig,
    Fill,
    Order,
    Strategy,
    TradeEvent,
)
from quantfleet.backtest.events.engine import run_events
from quantfleet.backtest.events.orders import OrderStatus, Working
from quantfleet.backtest.events.result import EventResult
from quantfleet.backtest.events.sources import BarEvents, BookEvents, EventSource, TradeEvents
from quantfleet.backtest.events.view import MarketView

__all__ = [
    "BarEvent",
    "BarEvents",
    "BookEvent",
    "BookEvents",
    "Cancel",
    "Decision",
    "EventResult",
    "EventSource",
    "ExecutionConfig",
    "Fill",
    "MarketView",
    "Order",
    "OrderStatus",
    "Strategy",
    "TradeEvent",
    "TradeEvents",
    "Working",
    "run_events",
]
