"""Job: one self-contained HTML file of the whole run."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import quantfleet
from quantfleet.config import to_plain
from quantfleet.contracts import SEGMENTS
from quantfleet.errors import ConfigError
from quantfleet.evaluation import information_coefficient
from quantfleet.evaluation.report import ModelPage, ReportInputs, StageRow, render_report, report_data
from quantfleet_jobs.evaluate import read_scores
from quantfleet_jobs.inputs import chunk_store, split_plan
from quantfleet_jobs.main import job_main
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE"]


def _work(context: StageContext) -> StageOutput:
    recipe, plan = context.recipe, split_plan(context)
    inputs = ReportInputs(
        run_name=recipe.run.name,
        created_utc=dt.datetime.now(dt.UTC),
        version=quantfleet.__version__,
        config=to_plain(recipe),
        data_versions={
            name: f"{context.output(name, 'table')}@{context.output(name, 'version')}"
            for name in ("ingest", "features", "labels")
        },
        stages=tuple(
            StageRow(name=name, seconds=made.seconds, summary=made.summary, inputs=tuple(made.inputs))
            for name, made in context.inputs.items()
        ),
        quality=json.loads(context.storage.read_text(context.output("quality", "report"))),
        features=_feature_table(context),
        split={s: (plan.interval(s).start, plan.interval(s).end) for s in SEGMENTS},
        models=_pages(context),
        benchmark=_benchmark(recipe),
        prices_note="as they were ingested; dividends and taxes are not in them. "
        f"Shorts pay {recipe.backtest.costs.borrow_bps_per_year:g} bps a year to borrow.",
        notes=_notes(context),
        bars_per_year=recipe.market.bars_per_year,
        verdict=json.loads(context.storage.read_text(context.output("evaluate", "verdict"))),
        looks=context.output("evaluate", "looks"),
        audit=tuple(json.loads(context.storage.read_text(context.output("audit", "findings")))["findings"]),
        input_shift=json.loads(context.storage.read_text(context.output("evaluate", "input_shift"))),
    )
    path = context.path("report.html")
    html = render_report(inputs)
    context.storage.write_text(path, html)
    _log_report(context, html)
    plain = context.path("report.json")
    context.storage.write_text(plain, json.dumps(report_data(inputs), indent=1))
    return StageOutput(outputs={"report": path, "data": plain}, summary=context.storage.uri(path))


def _pages(context: StageContext) -> tuple[ModelPage, ...]:
    decisions = json.loads(context.storage.read_text(context.output("register", "decisions")))
    pages = []
    for model in context.recipe.models:
        trained, decision = context.output("train", "models")[model.label], decisions[model.label]
        curve = context.output("backtest", "models")[model.label]["test"]["curve"]
        pages.append(
            ModelPage(
                name=model.label,
                kind=model.kind,
                baseline=model.baseline,
                metrics=read_scores(context, model.label)["test"],
                curve=context.storage.read_parquet(curve),
                learning_curve=trained["curves"],
                fit_seconds=trained["seconds"],
                parameters=trained["parameters"],
                verdict=decision["verdict"],
                reasons=tuple((r["gate"], r["passed"], r["reason"]) for r in decision["reasons"]),
                detail=json.loads(context.storage.read_text(context.output("evaluate", "details")[model.label])),
            )
        )
    return tuple(pages)


def _benchmark(recipe: Recipe) -> str:
    for model in recipe.models:
        if model.kind == "buy_and_hold":
            return model.label
    raise ConfigError("the report compares with buy and hold: add `kind: buy_and_hold` to models.")


def _notes(context: StageContext) -> tuple[str, ...]:
    recipe = context.recipe
    rivals = sum(not model.baseline for model in recipe.models)
    symbols = len(chunk_store(context).spec.symbols)
    search = context.record.find("search")
    tried = "" if search is None else f" and {search.outputs['trials']} search trials"
    chance = None if search is None else search.outputs.get("overfitting")
    tried += "" if chance is None else f"; the search overfitted with a probability of {chance:.2f} (PBO on validation)"
    return (
        f"{symbols} symbols and one test period: a small sample. Tests share their error among {rivals} "
        f"candidates{tried}.",
        "A forecast is judged at the "
        f"{recipe.policy.horizon_bars}-bar horizon; decisions at a bar's close are filled at the next open.",
    )


def _feature_table(context: StageContext) -> pl.DataFrame:
    """Moments and IC of every feature over the training targets; IC is against the primary horizon's return."""
    store, recipe = chunk_store(context), context.recipe
    spec, stats = store.spec, store.stats
    first, place = spec.lookback_bars - 1, spec.label_columns.index(f"return_{recipe.policy.horizon_bars}")
    x, y = [], []
    for batch in store.read("train"):
        x.append(batch.x_BTF[:, first:][batch.mask_BC])
        y.append(batch.y_BCK[..., place][batch.mask_BC])
    x_RF, y_R = np.concatenate(x).astype(np.float64), np.concatenate(y).astype(np.float64)
    rows: list[dict[str, Any]] = []
    for i, feature in enumerate(recipe.feature_set.features):
        rows.append(
            {
                "feature": feature.column,
                "lookback_bars": feature.lookback_bars,
                "source": feature.source,
                "mean": float(stats.feature_mean_F[i]),
                "std": float(stats.feature_std_F[i]),
                "missing_share": float(np.mean(~np.isfinite(x_RF[:, i]))),
                "ic_train": information_coefficient(x_RF[:, i], y_R),
            }
        )
    return pl.DataFrame(rows)


def _log_report(context: StageContext, html: str) -> None:
    """The same file beside the models in MLflow."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "report.html")
        file.write_text(html)
        context.registry.log_file(str(context.output("register", "parent_run")), file)


STAGE = Stage(
    name="report",
    help="Write one self-contained HTML file: data, training, equity and drawdown against buy and hold, decisions.",
    needs=("ingest", "quality", "features", "labels", "split", "train", "backtest", "evaluate", "audit", "register"),
    settings=("run", "policy.horizon_bars"),
    work=_work,
    check=_benchmark,
    uses_registry=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
