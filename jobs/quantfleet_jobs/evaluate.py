"""Job: score every model on the untouched test period, and on validation beside it."""

from __future__ import annotations

import datetime as dt
import json
import math

from quantfleet.config import fingerprint
from quantfleet.contracts import Segment
from quantfleet.evaluation import EvaluationView, evaluate_model
from quantfleet.registry.looks import Look, LookLog
from quantfleet.storage import Storage
from quantfleet_jobs.backtest import trading_columns
from quantfleet_jobs.inputs import read_predictions, split_plan
from quantfleet_jobs.main import job_main
from quantfleet_jobs.predictions import PREDICTED
from quantfleet_jobs.record import StageRecord
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE", "read_scores", "scores_of"]


def _work(context: StageContext) -> StageOutput:
    recipe, outputs = context.recipe, {}
    sharpes: dict[str, float] = {}
    for model in recipe.models:
        scores = {segment: _score(context, model.label, segment) for segment in PREDICTED}
        path = context.path("evaluation", f"{model.label}.json")
        context.storage.write_text(path, json.dumps(_json(scores), indent=1))
        outputs[model.label] = path
        sharpes[model.label] = scores["test"].get("sharpe", math.nan)
    looks = LookLog(context.storage).append(
        Look(
            looked_at=dt.datetime.now(dt.UTC),
            bars=str(context.output("ingest", "table")),
            test=split_plan(context).interval("test"),
            run=recipe.run.name,
            models=sum(not model.baseline for model in recipe.models),
            fingerprint=fingerprint(*(context.inputs[stage].fingerprint for stage in ("train", "backtest"))),
        )
    )
    best = max(sharpes, key=lambda name: -math.inf if math.isnan(sharpes[name]) else sharpes[name])
    return StageOutput(
        outputs={"models": outputs, "looks": looks},
        summary=f"best Sharpe after costs on test: {best} {sharpes[best]:.2f} (of {len(sharpes)} models); look {looks} at this "
        "test period",
    )


def _score(context: StageContext, model: str, segment: Segment) -> dict[str, float]:
    context.progress.update(f"{model} on {segment}")
    recipe = context.recipe
    view = EvaluationView(
        predictions=trading_columns(read_predictions(context, model, segment), recipe.policy.horizon_bars),
        curve=context.storage.read_parquet(context.output("backtest", "models")[model][segment]["curve"]),
        bars_per_year=recipe.market.bars_per_year,
    )
    return evaluate_model(view, recipe.metrics)


def _json(scores: dict[Segment, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """JSON has no NaN: what is not known is null."""
    return {str(s): {k: v if math.isfinite(v) else None for k, v in row.items()} for s, row in scores.items()}


def read_scores(context: StageContext, model: str) -> dict[str, dict[str, float]]:
    """What this job wrote: segment to metric to value, NaN where not known."""
    return scores_of(context.inputs["evaluate"], model, context.storage)


def scores_of(evaluate: StageRecord, model: str, storage: Storage) -> dict[str, dict[str, float]]:
    text = storage.read_text(evaluate.outputs["models"][model])
    return {s: {k: math.nan if v is None else v for k, v in row.items()} for s, row in json.loads(text).items()}


STAGE = Stage(
    name="evaluate",
    help="Score every model after costs on the untouched test period, against the naive models.",
    needs=("ingest", "split", "train", "backtest"),
    settings=("metrics", "market", "policy.horizon_bars"),
    work=_work,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
