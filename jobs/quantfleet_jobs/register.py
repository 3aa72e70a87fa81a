"""Job: log every model to MLflow, let the gates decide, append the decisions to the promotion log, move the alias."""

from __future__ import annotations

import datetime as dt
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from quantfleet.config import fingerprint, to_plain
from quantfleet.contracts import ModelConfig
from quantfleet.registry import Candidate, Decision, GateContext, Verdict, decide_all
from quantfleet.registry.promotions import PromotionLog, PromotionRow
from quantfleet.registry.store import LoggedRun
from quantfleet_jobs.evaluate import read_scores
from quantfleet_jobs.main import job_main
from quantfleet_jobs.plots import curve_png
from quantfleet_jobs.predictions import PREDICTED
from quantfleet_jobs.stage import Stage, StageContext, StageOutput
from quantfleet_jobs.watch import fit_params, fit_tags, parent_tags

__all__ = ["STAGE"]

_CURVE_FILE = "backtest/test_curve.parquet"


def _work(context: StageContext) -> StageOutput:
    recipe, registry = context.recipe, context.registry
    name, log = recipe.registered_name, PromotionLog(context.storage)
    _sync_alias(context, log)
    champion_version = registry.alias_version(name)
    judged = fingerprint(
        context.fingerprint, [context.output("train", "models")[m.label]["digest"] for m in recipe.models]
    )
    experiment = registry.experiment(recipe.run.name)
    parent = registry.parent_run(experiment, recipe.run.name, parent_tags(recipe))
    registry.tag(parent, {"quantfleet.test_looks": str(context.output("evaluate", "looks"))})
    versions: dict[str, int] = {}
    for model in recipe.models:
        context.progress.update(f"logging {model.label}")
        versions[model.label] = _log_model(model, context, experiment, parent)
    registry.finish(parent)
    decisions = _decide(context, champion_version, versions)
    promoted = [n for n, d in decisions.items() if d.verdict is Verdict.PROMOTE]
    now = dt.datetime.now(dt.UTC)
    log.append(
        [
            PromotionRow(
                decided_at=now,
                model_name=name,
                version=versions[candidate],
                candidate=candidate,
                verdict=decision.verdict.value,
                reasons=tuple(f"{r.gate}: {'passed' if r.passed else 'failed'}: {r.reason}" for r in decision.reasons),
                alias=registry.config.alias,
                run=recipe.run.name,
                fingerprint=judged,
            )
            for candidate, decision in decisions.items()
        ]
    )
    _sync_alias(context, log)
    path = context.path("decisions.json")
    context.storage.write_text(path, json.dumps({n: to_plain(d) for n, d in decisions.items()}, indent=1))
    summary = (
        f"PROMOTE {promoted[0]} (version {versions[promoted[0]]})" if promoted else "HOLD for all: nothing was promoted"
    )
    return StageOutput(
        outputs={"model_name": name, "versions": versions, "decisions": path, "parent_run": parent, "judged": judged},
        summary=f"{len(versions)} versions of {name}; {summary}",
    )


def _sync_alias(context: StageContext, log: PromotionLog) -> None:
    """Point the alias where the log says, also after a crash between the two."""
    name = context.recipe.registered_name
    wanted = log.champion(name, context.registry.config.alias)
    if wanted is not None and context.registry.alias_version(name) != wanted:
        context.registry.move_alias(name, wanted)


def _decide(context: StageContext, champion_version: int | None, versions: Mapping[str, int]) -> dict[str, Decision]:
    recipe = context.recipe
    candidates = {model.label: _candidate(model, context) for model in recipe.models}
    rivals = tuple(c for c in candidates.values() if not c.baseline)
    champion = None
    if champion_version is not None and champion_version not in versions.values():
        champion = _champion(context, champion_version)
    search = context.record.find("search")
    trials = int(search.outputs["trials"]) if search is not None else 0
    gate_context = GateContext(
        candidates=rivals,
        baselines=tuple(c for c in candidates.values() if c.baseline),
        champion=champion,
        n_trials=max(1, len(rivals) + trials),
        leaks=tuple(context.output("audit", "failed")),
        bars_per_year=recipe.market.bars_per_year,
        seed=recipe.run.seed,
    )
    return decide_all(gate_context, recipe.gates)


def _candidate(model: ModelConfig, context: StageContext) -> Candidate:
    curve = context.storage.read_parquet(context.output("backtest", "models")[model.label]["test"]["curve"])
    return Candidate(
        name=model.label,
        kind=model.kind,
        baseline=model.baseline,
        metrics=read_scores(context, model.label)["test"],
        **_series(curve),
    )


def _champion(context: StageContext, version: int) -> Candidate:
    with tempfile.TemporaryDirectory() as folder:
        file = context.registry.fetch_file(context.recipe.registered_name, version, _CURVE_FILE, Path(folder))
        curve = pl.read_parquet(file)
    return Candidate(name=f"version {version}", kind="champion", baseline=False, metrics={}, **_series(curve))


def _series(curve: pl.DataFrame) -> dict[str, Any]:
    time = curve["timestamp"].dt.replace_time_zone(None)
    return {"net_return_T": curve["net_return"].to_numpy(), "time_T": time.to_numpy()}


def _log_model(model: ModelConfig, context: StageContext, experiment: str, parent: str) -> int:
    recipe, storage = context.recipe, context.storage
    trained = context.output("train", "models")[model.label]
    scores = read_scores(context, model.label)
    with tempfile.TemporaryDirectory() as local:
        artifact, files = Path(local, "artifact"), Path(local, "files")
        storage.download(trained["artifact"], artifact)
        _write_files(model, context, files)
        record = LoggedRun(
            name=model.label,
            params=fit_params(model, recipe),
            tags={
                **fit_tags(model),
                "quantfleet.bars": f"{context.output('ingest', 'table')}@{context.output('ingest', 'version')}",
                "quantfleet.features": f"{context.output('features', 'table')}@{context.output('features', 'version')}",
                "quantfleet.labels": f"{context.output('labels', 'table')}@{context.output('labels', 'version')}",
            },
            metrics={f"{s}.{k}": v for s, row in scores.items() for k, v in row.items() if math.isfinite(v)},
            curves=tuple(trained["curves"]),
            files=files,
            fingerprint=fingerprint(context.fingerprint, model.label, trained["digest"]),
            fit=trained["fit"],
        )
        return context.registry.log_model(
            record, artifact, experiment=experiment, parent=parent, model_name=recipe.registered_name
        )


def _write_files(model: ModelConfig, context: StageContext, folder: Path) -> None:
    """Everything a reader of the run wants beside the weights."""
    storage = context.storage
    for segment in PREDICTED:
        answers = f"{context.output('train', 'predictions')}/{segment}/model={model.label}"
        storage.download(answers, folder / "predictions" / segment)
        for name, path in context.output("backtest", "models")[model.label][segment].items():
            target = folder / "backtest" / f"{segment}_{name}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read_bytes(path))
    (folder / "metrics.json").write_bytes(storage.read_bytes(context.output("evaluate", "models")[model.label]))
    (folder / "split.json").write_bytes(storage.read_bytes(context.output("split", "plan")))
    (folder / "recipe.json").write_text(json.dumps(to_plain(context.recipe), indent=1))
    curve = pl.read_parquet(folder / _CURVE_FILE)
    plots = folder / "plots"
    plots.mkdir()
    (plots / "equity.png").write_bytes(curve_png(model.label, curve, period="test"))
    picture = context.output("train", "models")[model.label]["learning"]
    if picture is not None:
        (plots / "learning.png").write_bytes(storage.read_bytes(picture))


STAGE = Stage(
    name="register",
    help="Log every model to MLflow; gates decide PROMOTE or HOLD with reasons; only a PROMOTE moves the alias.",
    needs=("ingest", "features", "labels", "split", "train", "backtest", "evaluate", "audit"),
    settings=("gates", "market", "registered_name", "registry.alias"),
    work=_work,
    uses_registry=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
