"""Paper trading: the event engine on live bars, with a memory in storage."""

from quantfleet.backtest.paper.session import PaperSession, bar_events

__all__ = ["PaperSession", "bar_events"]
