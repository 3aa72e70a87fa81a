"""Paper trading: the event engine on live bars, with a memory in storage."""

from quantfleet.backtest.paper.config import PaperConfig
from quantfleet.backtest.paper.session import PaperSession, bar_events, saved_owner
from quantfleet.backtest.paper.signals import ForecastStrategy
from quantfleet.backtest.paper.traders import TRADERS, MovingAverageTrader, TraderConfig, register_trader

__all__ = [
    "TRADERS",
    "ForecastStrategy",
    "MovingAverageTrader",
    "PaperConfig",
    "PaperSession",
    "TraderConfig",
    "bar_events",
    "register_trader",
    "saved_owner",
]
