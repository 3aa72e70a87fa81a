"""G2: a thousand parameter sets with three metrics each, against vectorbt's columns; orders and metrics are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.harness import BenchRow, Prepared
from bench.markets import crossings, later, random_walk
from quantfleet.backtest import BacktestConfig, run_signals
from quantfleet.ledger import CostModel

BARS = 10_000
FAST_BARS, SLOW_BARS = range(5, 45), range(50, 300, 10)
BARS_PER_YEAR = 365


def prepare() -> Prepared:
    """Pairs of moving averages on one symbol."""
    import vectorbt

    prices = random_walk(BARS, 1, "D")
    pairs = [crossings(prices.close_TS[:, 0], fast, slow) for fast in FAST_BARS for slow in SLOW_BARS]
    entries_PT, exits_PT = (np.stack(rows) for rows in zip(*pairs, strict=True))
    config = BacktestConfig(costs=CostModel(commission_bps=1.0, slippage_bps=1.0))
    index = pd.DatetimeIndex(prices.time_T)
    close, opened = (pd.Series(p[:, 0], index=index) for p in (prices.close_TS, prices.open_TS))
    signals = [pd.DataFrame(later(rows.T, False), index=index) for rows in (entries_PT, exits_PT)]
    most = 2 * int(entries_PT.sum(axis=1).max()) + 1

    def ours() -> Any:
        runs = run_signals(prices, entries_PT, exits_PT, config)
        return runs, runs.metrics(bars_per_year=BARS_PER_YEAR)

    def peer() -> Any:
        portfolio = vectorbt.Portfolio.from_signals(
            close,
            *signals,
            price=opened,
            fees=config.costs.commission_rate,
            slippage=config.costs.slippage_rate,
            init_cash=config.initial_capital,
            freq="1D",
            max_orders=most * len(pairs),
            max_logs=0,
        )
        return portfolio, portfolio.total_return(), portfolio.sharpe_ratio(), portfolio.max_drawdown()

    def check(mine: Any, theirs: Any) -> None:
        (runs, metrics), (portfolio, total, sharpe, drawdown) = mine, theirs
        records = portfolio.orders.records.sort_values(["col", "idx"])
        np.testing.assert_array_equal(np.repeat(np.arange(len(pairs)), runs.orders_P), records["col"])
        np.testing.assert_array_equal(runs.bar_N, records["idx"])
        np.testing.assert_allclose(np.abs(runs.units_N), records["size"], rtol=1e-9)
        np.testing.assert_allclose(metrics.total_return_P, total, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(metrics.sharpe_P, sharpe, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(metrics.max_drawdown_P, -drawdown, rtol=1e-9)
        value = portfolio.value()
        for p in range(0, len(pairs), 97):
            np.testing.assert_allclose(runs.result(p).equity_T, value[p], rtol=1e-9)

    return Prepared(ours=ours, peer=peer, check=check)


ROW = BenchRow(
    id="G2",
    work="signals of 1000 parameter sets x 10k bars to orders, total return, Sharpe ratio and drawdown",
    peer="vectorbt from_signals and its metrics",
    target=0.025,
    prepare=prepare,
    versions=("vectorbt", "numba", "numpy"),
)
