"""A model's test period again, at other costs, with orders that come late, and part by part."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import polars as pl

from quantfleet.backtest import BacktestConfig, run_backtest
from quantfleet.contracts import TimeInterval
from quantfleet.evaluation import EvaluationView, ic_decay, max_drawdown, reliability, sharpe, total_return
from quantfleet.evaluation.capacity import Capacity, capacity, impact_per_root_capital
from quantfleet.evaluation.slices import SliceScore, slice_scores
from quantfleet.evaluation.stress import SCENARIOS, StressScenario
from quantfleet_jobs.prices import TradedPrices
from quantfleet_jobs.recipe import Recipe

__all__ = ["COSTS_BPS", "DELAYS_BARS", "TestPeriod"]

COSTS_BPS = (0.0, 5.0, 10.0, 20.0, 30.0, 50.0)
"""All that a fill costs, in place of commission, slippage and spread; borrow fees stay."""
DELAYS_BARS = (0, 1, 2, 3, 4, 5)

_MOST_BPS = 2000.0
_FILL_COSTS = ("commission_bps", "slippage_bps", "spread_bps")


class TestPeriod:
    """The prices of the test period, read once for all models."""

    __test__ = False

    def __init__(self, recipe: Recipe, prices: TradedPrices, period: TimeInterval) -> None:
        self._recipe = recipe
        self._panel = prices.panel(period)
        until = prices.bars.filter(pl.col("timestamp") < period.end)
        self._known = until.select("symbol", "timestamp", "close", "volume")
        self._closes = self._known.drop("volume")

    def detail(self, view: EvaluationView, positions: pl.DataFrame) -> dict[str, Any]:
        """What stands in the evaluation's JSON beside the scores."""
        weights_TS = self._recipe.policy.target_weights(view.predictions, self._panel)
        config = self._recipe.backtest
        decay = ic_decay(view.predictions, delays_bars=range(2 * self._recipe.policy.horizon_bars + 1))
        return {
            "slices": [
                *slice_scores(view, closes=self._closes, positions=positions),
                *(self._stressed(weights_TS, scenario) for scenario in SCENARIOS),
            ],
            "costs": [{"cost_bps": bps, **self._earned(weights_TS, _priced(config, bps))} for bps in COSTS_BPS],
            "delays": [{"delay_bars": k, **self._earned(_late(weights_TS, k), config)} for k in DELAYS_BARS],
            "capacity": asdict(self._capacity(weights_TS)),
            "calibration": _calibration(view),
            "ic_decay": decay.select("delay_bars", "ic").to_dicts(),
        }

    def _stressed(self, weights_TS: Any, scenario: StressScenario) -> SliceScore:
        config, costs = self._recipe.backtest, self._recipe.backtest.costs
        dearer = {name: min(getattr(costs, name) * scenario.cost_factor, _MOST_BPS) for name in _FILL_COSTS}
        bent = scenario.bend(self._panel, self._recipe.run.seed)
        returns = run_backtest(bent, weights_TS, replace(config, costs=replace(costs, **dearer))).net_return_T
        known = bool(np.isfinite(returns).all())
        return SliceScore(
            group="stress",
            name=scenario.name,
            bars=len(returns),
            sharpe=sharpe(returns, bars_per_year=self._recipe.market.bars_per_year) if known else math.nan,
            total_return=total_return(returns) if known else -1.0,
            max_drawdown=max_drawdown(returns) if known else 1.0,
            ic=math.nan,
        )

    def _capacity(self, weights_TS: Any) -> Capacity:
        """By the square-root law, from what the decisions earn without any impact."""
        config = self._recipe.backtest
        traded = run_backtest(self._panel, weights_TS, replace(config, costs=replace(config.costs, impact_bps=0.0)))
        impact = impact_per_root_capital(
            traded.trades, self._known, capital=config.initial_capital, bars_traded=len(traded.net_return_T)
        )
        return capacity(float(traded.net_return_T.mean()), impact)

    def _earned(self, weights_TS: Any, config: BacktestConfig) -> dict[str, float]:
        returns = run_backtest(self._panel, weights_TS, config).net_return_T
        return {
            "sharpe": sharpe(returns, bars_per_year=self._recipe.market.bars_per_year),
            "total_return": total_return(returns),
        }


def _calibration(view: EvaluationView) -> list[dict[str, float]]:
    """Bins with at least one row: the chance of a rise that was stated, and how often it rose."""
    chance = view.predictions["direction_probability"].cast(pl.Float64).fill_null(math.nan).to_numpy()
    came = view.predictions["realised_return"].cast(pl.Float64).fill_null(math.nan).to_numpy()
    found = reliability(chance, np.where(np.isnan(came), np.nan, came > 0.0), bins=20)
    rows = zip(found.stated_B, found.happened_B, found.rows_B, strict=True)
    return [{"stated": float(s), "happened": float(h), "rows": int(n)} for s, h, n in rows if n]


def _priced(config: BacktestConfig, bps: float) -> BacktestConfig:
    return replace(config, costs=replace(config.costs, commission_bps=bps, slippage_bps=0.0, spread_bps=0.0))


def _late(weights_TS: Any, bars: int) -> Any:
    """Decisions that reach the market so many bars later; nothing is decided before the first arrives."""
    if not bars:
        return weights_TS
    late = np.full_like(weights_TS, np.nan)
    late[bars:] = weights_TS[:-bars]
    return late
