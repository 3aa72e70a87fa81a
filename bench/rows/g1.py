"""G1: one strategy over a million bars, against vectorbt's `from_signals`; every order and the equity curve are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.harness import BenchRow, Prepared
from bench.markets import crossings, later, random_walk
from quantfleet.backtest import BacktestConfig, run_signals
from quantfleet.ledger import CostModel

BARS = 1_000_000


def prepare() -> Prepared:
    """Moving averages of 50 and 200 bars; costs so low that the strategy stays solvent."""
    import vectorbt

    prices = random_walk(BARS, 1, "m")
    entries, exits = crossings(prices.close_TS[:, 0], 50, 200)
    config = BacktestConfig(costs=CostModel(commission_bps=0.1, slippage_bps=0.1))
    close, opened = pd.Series(prices.close_TS[:, 0]), pd.Series(prices.open_TS[:, 0])
    signals = [pd.Series(later(rows, False)) for rows in (entries, exits)]
    most = 2 * int(entries.sum()) + 1

    def peer() -> Any:
        return vectorbt.Portfolio.from_signals(
            close,
            *signals,
            price=opened,
            fees=config.costs.commission_rate,
            slippage=config.costs.slippage_rate,
            init_cash=config.initial_capital,
            max_orders=most,  # spares it the room for an order a bar
            max_logs=0,
        )

    def check(ours: Any, theirs: Any) -> None:
        result, records = ours.result(), theirs.orders.records
        np.testing.assert_array_equal(ours.bar_N, records["idx"])
        np.testing.assert_array_equal(np.sign(ours.units_N), np.where(records["side"] == 0, 1.0, -1.0))
        np.testing.assert_allclose(np.abs(ours.units_N), records["size"], rtol=1e-9)
        np.testing.assert_allclose(result.price_N, records["price"], rtol=1e-12)
        np.testing.assert_allclose(result.equity_T, theirs.value(), rtol=1e-9)
        assert len(records) > 5000, "hardly any orders would measure nothing"

    return Prepared(ours=lambda: run_signals(prices, entries, exits, config), peer=peer, check=check)


ROW = BenchRow(
    id="G1",
    work="signals of 1 strategy x 1M bars to orders",
    peer="vectorbt from_signals",
    target=0.04,
    prepare=prepare,
    versions=("vectorbt", "numba", "numpy"),
    rounds=11,
)
