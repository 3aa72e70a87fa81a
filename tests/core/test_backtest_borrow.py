"""Shorts pay for what they borrow, by the calendar; longs pay nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quantfleet.backtest import BacktestConfig, BacktestResult, BarPanel, run_backtest
from quantfleet.ledger import CostModel


def traded(*weights: float) -> BacktestResult:
    """1000 of capital at a price of 100 over a weekend; 36.5 % a year is 0.1 % of a short's value a day."""
    times = np.array(["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07"], dtype="datetime64[us]")
    flat = np.full((4, 1), 100.0)
    prices = BarPanel(open_TS=flat, close_TS=flat, time_T=times, symbols=("A",))
    costs = CostModel(commission_bps=0.0, slippage_bps=0.0, borrow_bps_per_year=3650.0)
    config = BacktestConfig(initial_capital=1000.0, costs=costs, allow_short=True)
    return run_backtest(prices, np.array(weights)[:, None], config)


def test_a_short_pays_for_the_days_that_it_is_held_weekends_included():
    """5 units short: 5 x 100 x 0.001 = 0.50 a day, so 1.50 from Friday to Monday."""
    short = traded(-0.5, math.nan, 0.0, math.nan)
    assert short.borrow_T == pytest.approx([0.0, 0.0, 1.5, 0.5])
    assert short.equity_T == pytest.approx([1000.0, 1000.0, 998.5, 998.0])
    assert short.gross_return_T == pytest.approx([0.0] * 4)
    assert short.curve()["borrow"].to_list() == short.borrow_T.tolist()


def test_a_long_pays_nothing():
    assert not traded(0.5, math.nan, 0.0, math.nan).borrow_T.any()
