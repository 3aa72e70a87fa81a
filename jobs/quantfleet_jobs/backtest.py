"""Job: trade every model's answers on the ledger, after costs."""

from __future__ import annotations

from typing import Any, cast

import polars as pl

from quantfleet.backtest import run_backtest
from quantfleet.errors import ConfigError
from quantfleet_jobs.inputs import read_predictions, split_plan
from quantfleet_jobs.main import job_main
from quantfleet_jobs.predictions import PREDICTED
from quantfleet_jobs.prices import needs_funding, traded_prices
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE", "trading_columns"]


def trading_columns(predictions: pl.DataFrame, horizon_bars: int) -> pl.DataFrame:
    """The primary horizon's answers under the names that policy and metrics read."""
    h = horizon_bars
    return predictions.select(
        "symbol",
        "timestamp",
        pl.col(f"expected_return_{h}").alias("expected_return"),
        pl.col(f"direction_probability_{h}").alias("direction_probability"),
        "position",
        pl.col(f"realised_return_{h}").alias("realised_return"),
    )


def _work(context: StageContext) -> StageOutput:
    recipe, plan, prices = context.recipe, split_plan(context), traded_prices(context)
    outputs: dict[str, dict[str, dict[str, str]]] = {}
    trades = 0
    for segment in PREDICTED:
        panel = prices.panel(plan.interval(segment))
        for model in recipe.models:
            context.progress.update(f"{model.label} on {segment}")
            answers = trading_columns(read_predictions(context, model.label, segment), recipe.policy.horizon_bars)
            result = run_backtest(panel, recipe.policy.target_weights(answers, panel), recipe.backtest)
            files = {"curve": result.curve(), "positions": result.positions(), "trades": result.trades}
            places = outputs.setdefault(model.label, {}).setdefault(segment, {})
            for name, frame in files.items():
                places[name] = context.path("backtest", model.label, f"{segment}_{name}.parquet")
                context.storage.write_parquet(places[name], frame)
            trades += result.trades.height if segment == "test" else 0
    costs = recipe.backtest.costs
    return StageOutput(
        outputs={"models": cast(dict[str, Any], outputs)},
        summary=f"{len(recipe.models)} models, {trades:,} trades on the test period, "
        f"commission {costs.commission_bps:g} bps, slippage {costs.slippage_bps:g} bps, spread {costs.spread_bps:g} bps, "
        f"borrow {costs.borrow_bps_per_year:g} bps a year",
    )


def _check(recipe: Recipe) -> None:
    if not recipe.split.for_a_run:
        raise ConfigError(
            f"split.kind={recipe.split.kind}: a run trains, validates and tests on one stretch of time each, and this split "
            "gives several, or no validation. Use `kind: time`, or `kind: walk_forward` with validation_fraction: 0.15; for "
            "cross-validation pass the splitter to scikit-learn, see docs/data.md.",
            kind=recipe.split.kind,
        )


STAGE = Stage(
    name="backtest",
    help="Trade every model's answers: decision at the close, fill at the next open, after costs.",
    needs=("ingest", "quality", "split", "train"),
    settings=("policy", "backtest"),
    work=_work,
    also=needs_funding,
    check=_check,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
