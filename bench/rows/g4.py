"""G4: a strategy asked at every one of 200k bars, against backtesting.py; every fill and the equity curve are the same.

A moving average of 20 bars against one of 100: 100 units are bought when the fast one rises above the slow one, sold when it falls
below. The peer gets its averages computed beforehand, as its users write it; our strategy keeps two running sums of the prices it
is shown, because nothing else is known at a bar. Prices lie on a grid of 1/64, so that both add up to exactly the same.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bench.harness import BenchRow, Prepared
from bench.markets import random_walk
from quantfleet.backtest import BacktestConfig
from quantfleet.backtest.events import BarEvents, Decision, MarketView, Order, Strategy, run_events
from quantfleet.ledger import CostModel

BARS, FAST_BARS, SLOW_BARS, UNITS = 200_000, 20, 100, 100
COMMISSION_BPS = 1.0
CAPITAL = 10_000_000.0


class Crossing(Strategy):
    """Long while the fast average is above the slow one."""

    def __init__(self) -> None:
        self.prices = [0.0] * SLOW_BARS
        self.fast_sum = self.slow_sum = 0.0
        self.above = True  # an average that begins below has not crossed

    def generate_signals(self, view: MarketView) -> Decision:
        price, prices = view.price(), self.prices
        self.fast_sum += price - prices[-FAST_BARS]
        self.slow_sum += price - prices[-SLOW_BARS]
        prices.append(price)
        if len(prices) < 2 * SLOW_BARS:
            return None
        above = self.fast_sum * SLOW_BARS > self.slow_sum * FAST_BARS
        if above == self.above:
            return None
        self.above = above
        if above:
            return Order(symbol="S0", units=UNITS)
        return Order(symbol="S0", units=-UNITS) if view.position() else None


def averages(close: Any, bars: int) -> Any:
    """Moving sum times the other's length: compared, it is the average without a rounding. NaN until there are enough bars."""
    sums = np.concatenate([[0.0], np.cumsum(close)])
    known = np.full(len(close), np.nan)
    known[bars - 1 :] = (sums[bars:] - sums[:-bars]) * (FAST_BARS * SLOW_BARS // bars)
    return known


def prepare() -> Prepared:
    """Bars that go nowhere but from their open to their close."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import backtesting

    walk = random_walk(BARS, 1, "m")
    prices = replace(walk, open_TS=np.round(walk.open_TS * 64.0) / 64.0, close_TS=np.round(walk.close_TS * 64.0) / 64.0)
    source = BarEvents(prices)
    config = BacktestConfig(initial_capital=CAPITAL, costs=CostModel(commission_bps=COMMISSION_BPS, slippage_bps=0.0))
    table = pd.DataFrame(
        {
            "Open": prices.open_TS[:, 0],
            "High": source.high_TS[:, 0],
            "Low": source.low_TS[:, 0],
            "Close": prices.close_TS[:, 0],
        },
        index=pd.DatetimeIndex(prices.time_T),
    )

    class Peer(backtesting.Strategy):  # type: ignore[misc]
        def init(self) -> None:
            self.fast = self.I(averages, self.data.Close, FAST_BARS)
            self.slow = self.I(averages, self.data.Close, SLOW_BARS)
            self.above = True

        def next(self) -> None:
            above = self.fast[-1] > self.slow[-1]
            if above == self.above:
                return
            self.above = above
            if above:
                self.buy(size=UNITS)
            elif self.position:
                self.position.close()

    def peer() -> Any:
        return backtesting.Backtest(table, Peer, cash=CAPITAL, commission=COMMISSION_BPS * 1e-4).run()

    def check(ours: Any, theirs: Any) -> None:
        # The peer does not close what is open at the end; its table of trades has round trips that ended.
        trips = theirs["_trades"]
        bar_N, units_N = ours.orders.bar_N, ours.orders.units_N
        np.testing.assert_array_equal(bar_N[units_N < 0.0], trips["ExitBar"])
        np.testing.assert_array_equal(bar_N[units_N > 0.0][: len(trips)], trips["EntryBar"])
        assert (np.abs(units_N) == UNITS).all()
        np.testing.assert_array_equal(ours.price_N[units_N < 0.0], trips["ExitPrice"])
        np.testing.assert_allclose(ours.equity_T, theirs["_equity_curve"]["Equity"], rtol=1e-9)
        assert len(trips) > 1000, "hardly any trades would measure nothing"

    def ours() -> Any:
        result = run_events(source, Crossing(), config)
        assert len(result.trades) == len(result.orders), "the peer's answer holds a table of trades and returns too"
        assert len(result.curve()) == BARS
        return result

    return Prepared(ours=ours, peer=peer, check=check)


ROW = BenchRow(
    id="G4",
    work="a Python strategy asked at each of 200k bars (20 against 100 bars), to fills and equity",
    peer="backtesting.py",
    target=1.0 / 3.0,
    prepare=prepare,
    versions=("backtesting", "numba", "numpy"),
)
