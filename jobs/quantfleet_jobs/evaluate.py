"""Job: score every model on the untouched test period, and on validation beside it."""

from __future__ import annotations

import datetime as dt
import json
import math

from quantfleet.config import fingerprint
from quantfleet.contracts import Segment
from quantfleet.evaluation import EvaluationView, evaluate_model
from quantfleet.evaluation.inference import RunVerdict, judge
from quantfleet.evaluation.plain import json_ready
from quantfleet.registry.looks import Look, LookLog
from quantfleet.storage import Storage
from quantfleet_jobs.attacks import attack_stored
from quantfleet_jobs.backtest import trading_columns
from quantfleet_jobs.input_shift import period_shift
from quantfleet_jobs.inputs import chunk_store, read_predictions, split_plan
from quantfleet_jobs.main import job_main
from quantfleet_jobs.predictions import PREDICTED
from quantfleet_jobs.prices import needs_funding, traded_prices
from quantfleet_jobs.record import StageRecord
from quantfleet_jobs.sensitivity import TestPeriod
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE", "read_scores", "scores_of"]


def _work(context: StageContext) -> StageOutput:
    recipe, outputs, details = context.recipe, {}, {}
    test = split_plan(context).interval("test")
    period = TestPeriod(recipe, traded_prices(context), test)
    sharpes: dict[str, float] = {}
    for model in recipe.models:
        views = {segment: _view(context, model.label, segment) for segment in PREDICTED}
        scores = {segment: evaluate_model(view, recipe.metrics) for segment, view in views.items()}
        path = context.path("evaluation", f"{model.label}.json")
        context.storage.write_text(path, json.dumps(json_ready(scores), indent=1))
        outputs[model.label] = path
        context.progress.update(f"{model.label} at other costs and delays")
        positions = context.storage.read_parquet(context.output("backtest", "models")[model.label]["test"]["positions"])
        details[model.label] = context.path("evaluation", f"{model.label}_detail.json")
        detail = period.detail(views["test"], positions)
        if recipe.attacks is not None:
            context.progress.update(f"{model.label} under attack")
            trained = context.output("train", "models")[model.label]
            detail["attacks"] = attack_stored(
                context.storage, trained["artifact"], trained["digest"], chunk_store(context), recipe.attacks,
                horizon_bars=recipe.policy.horizon_bars, seed=recipe.run.seed,
            )  # fmt: skip
        context.storage.write_text(details[model.label], json.dumps(json_ready(detail), indent=1))
        sharpes[model.label] = scores["test"].get("sharpe", math.nan)
    context.progress.update("test inputs against those of training")
    shift = context.path("evaluation", "input_shift.json")
    context.storage.write_text(
        shift, json.dumps(json_ready(period_shift(chunk_store(context), recipe.run.seed)), indent=1)
    )
    context.progress.update("all models against the best naive one")
    verdict = context.path("evaluation", "verdict.json")
    context.storage.write_text(verdict, json.dumps(json_ready(_judge(context)), indent=1))
    looks = LookLog(context.storage).append(
        Look(
            looked_at=dt.datetime.now(dt.UTC),
            bars=str(context.output("ingest", "table")),
            test=test,
            run=recipe.run.name,
            models=sum(not model.baseline for model in recipe.models),
            fingerprint=fingerprint(*(context.inputs[stage].fingerprint for stage in ("train", "backtest"))),
        )
    )
    best = max(sharpes, key=lambda name: -math.inf if math.isnan(sharpes[name]) else sharpes[name])
    return StageOutput(
        outputs={"models": outputs, "details": details, "verdict": verdict, "input_shift": shift, "looks": looks},
        summary=f"best Sharpe after costs on test: {best} {sharpes[best]:.2f} (of {len(sharpes)} models); look {looks} at this "
        "test period",
    )


def _view(context: StageContext, model: str, segment: Segment) -> EvaluationView:
    context.progress.update(f"{model} on {segment}")
    recipe = context.recipe
    return EvaluationView(
        predictions=trading_columns(read_predictions(context, model, segment), recipe.policy.horizon_bars),
        curve=context.storage.read_parquet(context.output("backtest", "models")[model][segment]["curve"]),
        bars_per_year=recipe.market.bars_per_year,
    )


def _judge(context: StageContext) -> RunVerdict | None:
    recipe, traded = context.recipe, context.output("backtest", "models")
    returns = {
        model.label: context.storage.read_parquet(traded[model.label]["test"]["curve"])["net_return"].to_numpy()
        for model in recipe.models
    }
    naive = {model.label for model in recipe.models if model.baseline}
    return judge(
        {name: r for name, r in returns.items() if name not in naive},
        {name: r for name, r in returns.items() if name in naive},
        bars_per_year=recipe.market.bars_per_year,
        seed=recipe.run.seed,
    )


def read_scores(context: StageContext, model: str) -> dict[str, dict[str, float]]:
    """What this job wrote: segment to metric to value, NaN where not known."""
    return scores_of(context.inputs["evaluate"], model, context.storage)


def scores_of(evaluate: StageRecord, model: str, storage: Storage) -> dict[str, dict[str, float]]:
    text = storage.read_text(evaluate.outputs["models"][model])
    return {s: {k: math.nan if v is None else v for k, v in row.items()} for s, row in json.loads(text).items()}


STAGE = Stage(
    name="evaluate",
    help="Score every model after costs on the untouched test period, against the naive models.",
    needs=("ingest", "quality", "split", "train", "backtest"),
    settings=("metrics", "market", "policy", "backtest", "attacks", "run.seed"),
    work=_work,
    also=needs_funding,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
