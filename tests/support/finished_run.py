"""A run that is finished as far as `evaluate`, made without Ray: what `register` reads, and nothing else."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from quantfleet.contracts import ModelConfig
from quantfleet.registry.artifact import write_artifact
from quantfleet.storage import Storage
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.record import RunRecord, StageRecord
from support.stored_models import FEATURES, PROVENANCE, fitted

__all__ = ["finish_until_evaluate"]

BARS = 60
DATA = {
    "ingest": {"table": "lake/bars/1d", "version": 4},
    "features": {"table": "lake/features/core", "version": 2},
    "labels": {"table": "lake/labels/own", "version": 3},
}


def finish_until_evaluate(recipe: Recipe, storage: Storage) -> RunRecord:
    """Write every output and record that `register` needs; all models earned the same."""
    record = RunRecord(storage, recipe.run.name)
    storage.write_text(record.path("split.json"), json.dumps(PROVENANCE["split"]))
    models = {model.label: _model(model, record, storage) for model in recipe.models}
    outputs = DATA | {
        "split": {"plan": record.path("split.json")},
        "train": {
            "models": {name: made["trained"] for name, made in models.items()},
            "predictions": record.path("predictions"),
        },
        "backtest": {"models": {name: made["traded"] for name, made in models.items()}},
        "evaluate": {"models": {name: made["scores"] for name, made in models.items()}, "looks": 3},
        "audit": {"findings": record.path("audit.json"), "failed": []},
    }
    for stage, own in outputs.items():
        record.finish(
            StageRecord(stage=stage, fingerprint=f"of-{stage}", inputs={}, outputs=own, summary=stage, seconds=0.0)
        )
    return record


def _model(config: ModelConfig, record: RunRecord, storage: Storage) -> dict[str, object]:
    name, artifact = config.label, record.path("models", config.label)
    with tempfile.TemporaryDirectory() as local:
        digest = write_artifact(fitted(config), FEATURES, PROVENANCE, Path(local))
        storage.upload(Path(local), artifact)
    traded: dict[str, dict[str, str]] = {}
    for segment in ("validation", "test"):
        answers = record.path("predictions", segment, f"model={name}", "part-0.parquet")
        storage.write_parquet(answers, pl.DataFrame({"symbol": ["AAA"], "expected_return_1": [0.01]}))
        traded[segment] = {}
        for what in ("curve", "positions", "trades"):
            traded[segment][what] = record.path("backtest", name, f"{segment}_{what}.parquet")
            storage.write_parquet(traded[segment][what], _curve())
    scores = record.path("evaluation", f"{name}.json")
    storage.write_text(scores, json.dumps({s: {"sharpe": 1.5, "ic": None} for s in ("validation", "test")}))
    curves = [{"epoch": 0, "train_loss": 2.0, "val_loss": 2.1}, {"epoch": 1, "train_loss": 1.0, "val_loss": 1.9}]
    learning = record.path("learning", f"{name}.png")
    storage.write_bytes(learning, b"\x89PNG learning curve")
    return {
        "trained": {
            "artifact": artifact,
            "digest": digest,
            "curves": curves,
            "learning": learning,
            "fit": f"fit-of-{name}",
        },
        "traded": traded,
        "scores": scores,
    }


def _curve() -> pl.DataFrame:
    """A curve that rises, with enough noise for a Sharpe ratio."""
    net = 0.002 + np.random.default_rng(5).normal(0, 0.01, BARS)
    equity = np.cumprod(1 + net)
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    time = [start + dt.timedelta(days=i) for i in range(BARS)]
    return pl.DataFrame(
        {
            "timestamp": pl.Series(time, dtype=pl.Datetime("us", "UTC")),
            "equity": equity,
            "net_return": net,
            "drawdown": equity / np.maximum.accumulate(equity) - 1,
        }
    )
