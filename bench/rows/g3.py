"""G3: target weights of 500 assets over 5000 days on one account, against vectorbt's `from_orders`; orders and equity are the same.

Rebalanced every month. A decision is a row of weights; days without one are rows of NaN to the peer, and nothing to us.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.harness import BenchRow, Prepared
from bench.markets import later, random_walk, rebalanced
from quantfleet.backtest import BacktestConfig, run_backtest
from quantfleet.ledger import DUST

BARS, SYMBOLS, EVERY_BARS = 5000, 500, 21


def prepare(every_bars: int = EVERY_BARS) -> Prepared:
    """Slowly drifting weights, so that cash is there for every purchase and the peer need not sort its orders."""
    import vectorbt

    prices = random_walk(BARS, SYMBOLS, "D")
    decided_at = np.arange(0, BARS, every_bars)
    weight_DS = rebalanced(len(decided_at), SYMBOLS)
    weight_TS = np.full((BARS, SYMBOLS), np.nan)
    weight_TS[decided_at] = weight_DS
    config = BacktestConfig()
    close, opened, size = (pd.DataFrame(rows) for rows in (prices.close_TS, prices.open_TS, later(weight_TS, np.nan)))

    def peer() -> Any:
        return vectorbt.Portfolio.from_orders(
            close,
            size=size,
            size_type="targetpercent",
            price=opened,
            val_price=-np.inf,  # sized at the last close, as ours
            fees=config.costs.commission_rate,
            slippage=config.costs.slippage_rate,
            init_cash=config.initial_capital,
            cash_sharing=True,
            group_by=True,
            max_orders=SYMBOLS * len(decided_at) + 1,
            max_logs=0,
        )

    def check(ours: Any, theirs: Any) -> None:
        records = theirs.orders.records.sort_values(["idx", "col"])
        noise = DUST * config.initial_capital  # which we leave alone, and the peer trades; the equity moves little here
        dust = records["size"] * opened.to_numpy()[records["idx"], records["col"]] < noise
        assert dust.sum() < 20
        records = records[~dust]
        np.testing.assert_array_equal(ours.orders.bar_N, records["idx"])
        np.testing.assert_array_equal(ours.orders.symbol_N, records["col"])
        np.testing.assert_array_equal(np.sign(ours.orders.units_N), np.where(records["side"] == 0, 1.0, -1.0))
        apart = np.abs(np.abs(ours.orders.units_N) - records["size"])
        assert (apart * records["price"] <= 1e-9 * records["size"] * records["price"] + 2.0 * noise).all()
        assert np.mean(apart <= 1e-6 * records["size"]) > 0.999
        np.testing.assert_allclose(ours.price_N, records["price"], rtol=1e-12)
        np.testing.assert_allclose(ours.equity_T, theirs.value(), rtol=1e-9)

    return Prepared(ours=lambda: run_backtest(prices, weight_DS, config, decided_at=decided_at), peer=peer, check=check)


ROW = BenchRow(
    id="G3",
    work="target weights of 500 assets x 5k days, rebalanced monthly, to equity and an order log (119k orders)",
    peer="vectorbt from_orders",
    target=0.01,
    prepare=prepare,
    versions=("vectorbt", "numba", "numpy"),
)
