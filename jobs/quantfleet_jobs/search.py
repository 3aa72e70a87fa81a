"""Job: search settings of one model; every trial becomes an MLflow run that keeps its out-of-sample returns."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from quantfleet.backtest import run_backtest
from quantfleet.config import fingerprint, to_plain
from quantfleet.contracts import Model
from quantfleet.errors import ConfigError, nearest
from quantfleet.evaluation import EvaluationView, evaluate_model, probability_of_overfitting
from quantfleet.registry.store import LoggedRun
from quantfleet.training import TorchModelConfig
from quantfleet.tuning import SearchConfig
from quantfleet.tuning.search import SearchTask, Trial, load_trial, probes, run_search
from quantfleet_data.chunks import ChunkStore
from quantfleet_jobs.backtest import trading_columns
from quantfleet_jobs.inputs import split_plan
from quantfleet_jobs.main import job_main
from quantfleet_jobs.params import flat_params
from quantfleet_jobs.plots import curve_png, learning_png
from quantfleet_jobs.predictions import prediction_rows
from quantfleet_jobs.prices import needs_funding, traded_prices
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE", "search_overfitting"]


def _work(context: StageContext) -> StageOutput:
    search, base = _searched(context.recipe)
    chunks = ChunkStore.open(context.storage, str(context.output("chunks", "path")))
    task = SearchTask(
        name=f"{context.recipe.run.name}-search-{context.fingerprint}",
        base=base,
        search=search,
        data=chunks,
        storage=context.storage,
        training=context.recipe.training,
        seed=context.recipe.run.seed,
    )
    trials = run_search(task, context.progress.update)
    experiment = context.registry.experiment(f"{context.recipe.run.name}-search")
    parent = context.registry.parent_run(experiment, task.name, {"quantfleet.trials": str(len(trials))})
    earned: list[pl.DataFrame] = []
    for trial in trials:
        context.progress.update(f"logging trial {trial.trial_id}")
        curve = _log_trial(trial, task, chunks, context, experiment, parent)
        earned += [] if curve is None else [curve]
    context.registry.finish(parent)
    path = context.path("search.json")
    context.storage.write_text(path, json.dumps([asdict(t) for t in trials], indent=1, default=str))
    best = trials[0]
    settings = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in best.settings.items())
    overfitting = search_overfitting([curve["net_return"].to_numpy() for curve in earned])
    stopped = sum(t.epochs < base.epochs for t in trials)
    return StageOutput(
        outputs={
            "trials": len(trials),
            "results": path,
            "parent_run": parent,
            "best": dict(best.settings),
            "overfitting": overfitting,
        },
        summary=f"{len(trials)} trials ({stopped} stopped early); best validation loss {best.val_loss:.4f} with {settings}"
        + ("" if overfitting is None else f"; probability of overfitting {overfitting:.2f}"),
    )


def _searched(recipe: Recipe) -> tuple[SearchConfig, TorchModelConfig]:
    """The search section and the model it names. Raises: ConfigError."""
    if recipe.search is None:
        raise ConfigError("the recipe has no `search` section; see the shipped recipe tune_quickstart.")
    models = {model.label: model for model in recipe.models}
    base = models.get(recipe.search.model)
    if base is None:
        raise ConfigError(
            f"search.model={recipe.search.model!r} is none of the models: {', '.join(models)}."
            f"{nearest(recipe.search.model, models)}"
        )
    if not isinstance(base, TorchModelConfig):
        raise ConfigError(f"search.model={base.label!r} is a {base.kind}; search runs on torch models so far.")
    probes(base, recipe.search)
    return recipe.search, base


def _log_trial(
    trial: Trial, task: SearchTask, chunks: ChunkStore, context: StageContext, experiment: str, parent: str
) -> pl.DataFrame | None:
    """One MLflow run per trial: settings, learning curve and, if it got a checkpoint, what it earned on validation: returned."""
    curve = None
    with tempfile.TemporaryDirectory() as local:
        files, metrics = Path(local), {"val_loss": trial.val_loss, "epochs": float(trial.epochs)}
        if trial.checkpoint is not None:
            scores, curve = _judge(load_trial(trial, task), chunks, context)
            metrics.update({f"validation.{k}": v for k, v in scores.items()})
            curve.write_parquet(files / "validation_returns.parquet")
            (files / "equity.png").write_bytes(curve_png(f"trial {trial.trial_id}", curve, period="validation"))
        if trial.curve:
            (files / "learning.png").write_bytes(learning_png(trial.trial_id, trial.curve))
        (files / "trial.json").write_text(json.dumps(asdict(trial), indent=1, default=str))
        context.registry.log_run(
            LoggedRun(
                name=f"{task.base.label}-{trial.trial_id}",
                params=flat_params({"model": {**to_plain(task.base), **trial.settings}}),
                tags={
                    "quantfleet.trial": trial.trial_id,
                    **({"quantfleet.error": trial.error[:500]} if trial.error else {}),
                },
                metrics={k: v for k, v in metrics.items() if math.isfinite(v)},
                curves=trial.curve,
                files=files,
                fingerprint=fingerprint(task.name, trial.trial_id),
            ),
            experiment=experiment,
            parent=parent,
        )
    return curve


def search_overfitting(returns: Sequence[npt.NDArray[np.float64]]) -> float | None:
    """Probability that the best of the trials by what it earned on validation is no better than their median elsewhere.

    Returns: None where it cannot be told: fewer than two trials that traded throughout, or too few bars for four blocks.
    """
    moving = [r for r in returns if np.isfinite(r).all()]
    bars = min((len(r) for r in moving), default=0)
    blocks = min(16, bars // 10 // 2 * 2)
    if blocks < 4:
        return None
    moving = [r for r in moving if (np.ptp(r[len(r) % blocks :].reshape(blocks, -1), axis=1) > 0.0).all()]
    if len(moving) < 2:
        return None
    return probability_of_overfitting(np.column_stack(moving), blocks=blocks).probability


def _judge(model: Model, chunks: ChunkStore, context: StageContext) -> tuple[dict[str, float], pl.DataFrame]:
    """Trade a trial's answers on validation; the test period stays untouched."""
    recipe = context.recipe
    rows = [prediction_rows(batch, model.predict(batch), chunks.spec) for batch in chunks.read("validation")]
    predictions = pl.from_arrow(pa.concat_tables(rows))
    assert isinstance(predictions, pl.DataFrame)
    panel = traded_prices(context).panel(split_plan(context).interval("validation"))
    answers = trading_columns(predictions, recipe.policy.horizon_bars)
    curve = run_backtest(panel, recipe.policy.target_weights(answers, panel), recipe.backtest).curve()
    view = EvaluationView(predictions=answers, curve=curve, bars_per_year=recipe.market.bars_per_year)
    return evaluate_model(view, recipe.metrics), curve


STAGE = Stage(
    name="search",
    help="Search settings of one model on Ray Tune over Ray Train; trials are judged on validation only.",
    needs=("ingest", "quality", "features", "labels", "split", "chunks"),
    settings=("search", "models", "training", "policy", "backtest", "run.seed"),
    work=_work,
    also=needs_funding,
    check=_searched,
    uses_registry=True,
    uses_ray=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
