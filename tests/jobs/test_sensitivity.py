"""Costs, delays and stress are what the backtest itself says when it is run that way."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from quantfleet.backtest import BacktestConfig, BarPanel, PositionPolicy, run_backtest
from quantfleet.contracts import TimeInterval
from quantfleet.evaluation import EvaluationView, sharpe
from quantfleet.ledger import CostModel
from quantfleet_jobs.prices import TradedPrices
from quantfleet_jobs.sensitivity import COSTS_BPS, DELAYS_BARS, TestPeriod

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
BARS, BEFORE = 160, 40
CONFIG = BacktestConfig(costs=CostModel(commission_bps=7.0, slippage_bps=3.0))
POLICY = PositionPolicy(horizon_bars=1)


@pytest.fixture(scope="module")
def traded() -> tuple[dict[str, Any], Any, BarPanel]:
    rng = np.random.default_rng(0)
    times = pl.Series([START + dt.timedelta(days=i) for i in range(BEFORE + BARS)], dtype=pl.Datetime("us", "UTC"))
    frames = []
    for symbol in ("A", "B"):
        close = 100 * np.exp(np.cumsum(rng.normal(0.0005, 0.01, len(times))))
        frames.append(
            pl.DataFrame({"symbol": symbol, "timestamp": times, "open": close, "close": close, "volume": 1e6})
        )
    prices = pl.concat(frames)
    start, end = times[BEFORE], times[-1] + dt.timedelta(days=1)
    test = prices.filter(pl.col("timestamp") >= start)
    answers = test.select(
        "symbol",
        "timestamp",
        expected_return=pl.Series(rng.normal(0, 0.01, test.height)),
        direction_probability=pl.Series(rng.uniform(0.3, 0.7, test.height)),
        position=pl.lit(None, dtype=pl.Float64),
        realised_return=pl.Series(rng.normal(0, 0.01, test.height)),
    )
    panel = BarPanel.from_bars(test)
    weights = POLICY.target_weights(answers, panel)
    result = run_backtest(panel, weights, CONFIG)
    recipe = SimpleNamespace(
        policy=POLICY, backtest=CONFIG, market=SimpleNamespace(bars_per_year=252.0), run=SimpleNamespace(seed=1)
    )
    period = TestPeriod(recipe, TradedPrices(prices), TimeInterval(start, end))  # type: ignore[arg-type]
    view = EvaluationView(predictions=answers, curve=result.curve(), bars_per_year=252.0)
    return period.detail(view, result.positions()), weights, panel


def ratio(panel: BarPanel, weights: Any, config: BacktestConfig = CONFIG) -> float:
    return sharpe(run_backtest(panel, weights, config).net_return_T, bars_per_year=252.0)


def test_costs_replace_all_that_a_fill_costs(traded: tuple[dict[str, Any], Any, BarPanel]):
    detail, weights, panel = traded
    assert [row["cost_bps"] for row in detail["costs"]] == list(COSTS_BPS)
    for row in detail["costs"]:
        config = replace(CONFIG, costs=CostModel(commission_bps=row["cost_bps"], slippage_bps=0.0))
        assert row["sharpe"] == ratio(panel, weights, config)
    earned = [row["total_return"] for row in detail["costs"]]
    assert earned == sorted(earned, reverse=True)


def test_a_delay_brings_each_decision_so_many_bars_later(traded: tuple[dict[str, Any], Any, BarPanel]):
    detail, weights, panel = traded
    assert [row["delay_bars"] for row in detail["delays"]] == list(DELAYS_BARS)
    assert detail["delays"][0]["sharpe"] == ratio(panel, weights)
    late = np.vstack([np.full((2, 2), np.nan), weights[:-2]])
    assert detail["delays"][2]["sharpe"] == ratio(panel, late)


def test_stress_scenarios_stand_beside_the_parts_of_the_period(traded: tuple[dict[str, Any], Any, BarPanel]):
    detail, _, _ = traded
    groups = [score.group for score in detail["slices"]]
    assert groups.count("stress") == 5
    assert {"year", "regime", "asset"} <= set(groups)
    by_name = {score.name: score for score in detail["slices"]}
    dear = by_name["liquidity gone: 5 times the costs"].total_return
    assert dear < detail["costs"][-2]["total_return"], "5 times 10 bps is more than 30"
    assert dear == pytest.approx(detail["costs"][-1]["total_return"], abs=0.02), "and about 50"


def test_calibration_counts_every_row_once(traded: tuple[dict[str, Any], Any, BarPanel]):
    detail, _, _ = traded
    assert sum(row["rows"] for row in detail["calibration"]) == 2 * BARS
    assert all(0.3 <= row["stated"] <= 0.7 for row in detail["calibration"])
    assert detail["ic_decay"][0]["delay_bars"] == 0


def test_capacity_is_what_the_decisions_earn_without_impact_over_what_impact_takes(
    traded: tuple[dict[str, Any], Any, BarPanel],
):
    detail, weights, panel = traded
    free = run_backtest(panel, weights, CONFIG)
    earned = float(free.net_return_T.mean())
    found = detail["capacity"]
    assert earned > 0.0
    assert 0.0 < found["half"] < found["most_profit"] < found["break_even"] < np.inf
    k = earned / np.sqrt(found["break_even"])
    volume = 1e6 * float(panel.close_TS.mean())
    turnover = float(free.trades["notional"].sum()) / CONFIG.initial_capital / len(free.net_return_T)
    roughly = turnover * 0.01 * np.sqrt(0.5 / volume)  # a trade is about half of the capital, a bar moves by 1 %
    assert 0.3 < k / roughly < 3.0
