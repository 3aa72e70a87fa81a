"""Backtests on the ledger: what target weights would have earned after costs."""

from quantfleet.backtest.config import BacktestConfig
from quantfleet.backtest.panel import BarPanel
from quantfleet.backtest.policy import PositionPolicy
from quantfleet.backtest.result import TRADE_SCHEMA, BacktestResult, OrderLog
from quantfleet.backtest.signals import SignalMetrics, SignalRuns, run_signals
from quantfleet.backtest.vectorised import run_backtest, run_backtests

__all__ = [
    "TRADE_SCHEMA",
    "BacktestConfig",
    "BacktestResult",
    "BarPanel",
    "OrderLog",
    "PositionPolicy",
    "SignalMetrics",
    "SignalRuns",
    "run_backtest",
    "run_backtests",
    "run_signals",
]
