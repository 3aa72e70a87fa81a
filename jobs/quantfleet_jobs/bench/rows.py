"""The rows of a bench, out of the records that its stages left: what each model cost, foretold and earned on test.

Shapes: N rows of predictions, T bars.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import ModelConfig
from quantfleet.evaluation import ic_interval
from quantfleet.storage import Storage
from quantfleet_jobs.backtest import trading_columns
from quantfleet_jobs.evaluate import scores_of
from quantfleet_jobs.inputs import stored_predictions
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.record import StageRecord

__all__ = ["AnswersOnTest", "BenchRow", "answers_on_test", "bench_rows"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRow:
    """One model of one run; NaN where there is nothing to say."""

    name: str
    kind: str
    baseline: bool
    failed: str = ""
    """Why there is nothing else."""
    parameters: int = 0
    """Numbers that were fitted; of trees, how many trees."""
    epochs: int = 0
    """Epochs that were made; 0 for a fit without epochs."""
    epoch_s: float = math.nan
    """Median over its epochs, validation included."""
    fit_s: float = math.nan
    """All of the fit, the start of its workers included."""
    peak_mb: float = math.nan
    p50_ms: float = math.nan
    p99_ms: float = math.nan
    ic: float = math.nan
    ic_low: float = math.nan
    ic_high: float = math.nan
    directional_accuracy: float = math.nan
    sharpe: float = math.nan
    sharpe_low: float = math.nan
    sharpe_high: float = math.nan
    total_return: float = math.nan


def bench_rows(recipe: Recipe, done: Mapping[str, StageRecord], storage: Storage) -> list[BenchRow]:
    """Candidates by Sharpe ratio, then the naive models, then those that failed.

    Args:
        recipe: with all models, those that failed too.
        done: records of `bench`, `train` and `evaluate`.
    """
    failed: Mapping[str, str] = done["bench"].outputs["failed"]
    rows = [
        BenchRow(name=model.label, kind=model.kind, baseline=model.baseline, failed=failed[model.label])
        if model.label in failed
        else _row(model, recipe, done, storage)
        for model in recipe.models
    ]

    def rank(row: BenchRow) -> tuple[bool, bool, float]:
        return bool(row.failed), row.baseline, math.inf if math.isnan(row.sharpe) else -row.sharpe

    return sorted(rows, key=rank)


def _row(model: ModelConfig, recipe: Recipe, done: Mapping[str, StageRecord], storage: Storage) -> BenchRow:
    made: Mapping[str, Any] = done["train"].outputs["models"][model.label]
    measured: Mapping[str, Any] = done["bench"].outputs["measured"][model.label]
    scores = scores_of(done["evaluate"], model.label, storage)["test"]
    answers = answers_on_test(model.label, recipe, done, storage)
    ic = ic_interval(
        answers.expected_N,
        answers.realised_N,
        answers.time_N,
        horizon_bars=recipe.policy.horizon_bars,
        seed=recipe.run.seed,
    )
    epochs = [row["seconds"] for row in made["curves"] if "seconds" in row]
    return BenchRow(
        name=model.label,
        kind=model.kind,
        baseline=model.baseline,
        parameters=int(made["parameters"]),
        epochs=len(epochs),
        epoch_s=statistics.median(epochs) if epochs else math.nan,
        fit_s=float(made["seconds"]),
        peak_mb=math.nan if measured["peak_mb"] is None else float(measured["peak_mb"]),
        p50_ms=float(measured["p50_ms"]),
        p99_ms=float(measured["p99_ms"]),
        ic=ic.estimate,
        ic_low=ic.low,
        ic_high=ic.high,
        directional_accuracy=scores.get("directional_accuracy", math.nan),
        sharpe=scores.get("sharpe", math.nan),
        sharpe_low=scores.get("sharpe_low", math.nan),
        sharpe_high=scores.get("sharpe_high", math.nan),
        total_return=scores.get("total_return", math.nan),
    )


@dataclass(frozen=True, eq=False)
class AnswersOnTest:
    """What a model said of the test period, row by row in order of symbol and time, and what it earned, bar by bar."""

    expected_N: Doubles
    realised_N: Doubles
    """NaN where it is not known yet."""
    time_N: npt.NDArray[np.datetime64]
    return_T: Doubles


def answers_on_test(model: str, recipe: Recipe, done: Mapping[str, StageRecord], storage: Storage) -> AnswersOnTest:
    """Read them. Args: done: records of `train` and `backtest`."""
    stored = stored_predictions(storage, str(done["train"].outputs["predictions"]), model, "test")
    rows = trading_columns(stored, recipe.policy.horizon_bars)
    curve = storage.read_parquet(done["backtest"].outputs["models"][model]["test"]["curve"])
    return AnswersOnTest(
        expected_N=rows["expected_return"].to_numpy().astype(np.float64),
        realised_N=rows["realised_return"].fill_null(math.nan).to_numpy().astype(np.float64),
        time_N=rows["timestamp"].dt.replace_time_zone(None).to_numpy(),
        return_T=curve["net_return"].to_numpy().astype(np.float64),
    )
