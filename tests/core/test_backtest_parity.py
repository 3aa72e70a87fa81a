"""On strategies that stay solvent, every order and the equity curve equal those of vectorbt 1.2.

Vectorbt trades in the bar whose row it reads; a decision of ours is filled one bar later, so its inputs are moved by one row.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import vectorbt

from quantfleet import evaluation
from quantfleet.backtest import BacktestConfig, run_backtest, run_signals
from quantfleet.ledger import CostModel

from .backtest_support import random_walk

COSTS = CostModel(commission_bps=5.0, slippage_bps=3.0)
BARS = 400


def later(rows: np.ndarray, fill: object) -> pd.DataFrame:
    return pd.DataFrame(np.concatenate([np.full_like(rows[:1], fill), rows[:-1]]))


def vectorbt_signals(prices: object, entries_PT: np.ndarray, exits_PT: np.ndarray, part: float = np.inf) -> object:
    return vectorbt.Portfolio.from_signals(
        pd.DataFrame(prices.close_TS),
        later(entries_PT.T, False),
        later(exits_PT.T, False),
        price=pd.DataFrame(prices.open_TS),
        fees=COSTS.commission_rate,
        slippage=COSTS.slippage_rate,
        init_cash=1e6,
        freq="1D",
        **({} if part == np.inf else {"size": part, "size_type": "percent"}),
    )


@pytest.mark.parametrize("part", [np.inf, 0.25])
def test_signals_make_the_orders_equity_and_metrics_of_from_signals(part: float):
    prices, rng = random_walk(BARS, 6, seed=3), np.random.default_rng(4)
    entries_PT, exits_PT = (rng.random((6, BARS)) < share for share in (0.1, 0.05))
    peer = vectorbt_signals(prices, entries_PT, exits_PT, part)
    runs = run_signals(prices, entries_PT, exits_PT, BacktestConfig(costs=COSTS), part=1.0 if part == np.inf else part)
    records = peer.orders.records.sort_values(["col", "idx"])
    assert np.array_equal(np.repeat(np.arange(6), runs.orders_P), records["col"])
    assert np.array_equal(runs.bar_N, records["idx"])
    assert np.array_equal(runs.units_N > 0.0, records["side"] == 0)
    assert np.abs(runs.units_N) == pytest.approx(records["size"].to_numpy(), rel=1e-11)
    assert len(records) > 60
    metrics = runs.metrics(bars_per_year=365)
    assert metrics.total_return_P == pytest.approx(peer.total_return().to_numpy(), rel=1e-9)
    assert metrics.sharpe_P == pytest.approx(peer.sharpe_ratio().to_numpy(), rel=1e-9)
    assert metrics.max_drawdown_P == pytest.approx(-peer.max_drawdown().to_numpy(), rel=1e-9)
    for p in range(6):
        result = runs.result(p)
        mine = records[records["col"] == p]
        assert result.price_N == pytest.approx(mine["price"].to_numpy(), rel=1e-12)
        assert result.commission_N == pytest.approx(mine["fees"].to_numpy(), rel=1e-9)
        assert result.equity_T == pytest.approx(peer.value()[p].to_numpy(), rel=1e-11)
        assert metrics.sharpe_P[p] == pytest.approx(evaluation.sharpe(result.net_return_T, bars_per_year=365), rel=1e-9)
        assert metrics.max_drawdown_P[p] == pytest.approx(evaluation.max_drawdown(result.net_return_T), rel=1e-9)
        assert metrics.total_return_P[p] == pytest.approx(evaluation.total_return(result.net_return_T), rel=1e-9)


@pytest.mark.parametrize("shorts", [False, True])
def test_target_weights_make_the_orders_and_equity_of_from_orders(shorts: bool):
    prices, rng = random_walk(BARS, 5, seed=5), np.random.default_rng(6)
    target = rng.dirichlet(np.ones(5), BARS) * 0.4
    if shorts:
        target *= rng.choice([-1.0, 1.0], (BARS, 5))
    target[rng.random(BARS) < 0.3] = np.nan
    result = run_backtest(prices, target, BacktestConfig(costs=COSTS, allow_short=shorts))
    peer = vectorbt.Portfolio.from_orders(
        pd.DataFrame(prices.close_TS),
        size=later(target, np.nan),
        size_type="targetpercent",
        price=pd.DataFrame(prices.open_TS),
        val_price=-np.inf,  # sized at the last close
        fees=COSTS.commission_rate,
        slippage=COSTS.slippage_rate,
        init_cash=1e6,
        cash_sharing=True,
        group_by=True,
    )
    records = peer.orders.records.sort_values(["idx", "col"])
    assert np.array_equal(result.orders.bar_N, records["idx"])
    assert np.array_equal(result.orders.symbol_N, records["col"])
    assert np.array_equal(result.orders.units_N > 0.0, records["side"] == 0)
    assert np.abs(result.orders.units_N) == pytest.approx(records["size"].to_numpy(), rel=1e-8)
    assert result.price_N == pytest.approx(records["price"].to_numpy(), rel=1e-12)
    assert result.commission_N == pytest.approx(records["fees"].to_numpy(), rel=1e-8)
    assert result.equity_T == pytest.approx(peer.value().to_numpy(), rel=1e-11)
    assert (result.orders.units_N < 0.0).any()
    assert (result.positions_TS < 0.0).any() == shorts
