"""Job: look at what a run holds with distrust. In a run, a leak keeps every model from promotion; asked for by itself, the job
ends with an error that names it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from quantfleet.config import Resolved, to_plain
from quantfleet.contracts import SEGMENTS, Timeframe
from quantfleet.errors import LeakageError
from quantfleet.evaluation.audit import AuditInputs, Finding, audit
from quantfleet.registry.looks import LookLog
from quantfleet.storage import LakeTable, Storage
from quantfleet_data.chunks import ChunkStore
from quantfleet_data.feature_store.plan import FeaturePlan
from quantfleet_data.features import compute_features
from quantfleet_jobs.inputs import (
    checked_bars,
    chunk_store,
    instrument_versions,
    labels_table,
    read_predictions,
    split_plan,
    table_version,
    with_context,
)
from quantfleet_jobs.main import job_main, perform
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.record import StageRecord
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE", "audit_run", "gather", "refuse_leaks"]

_LATEST_BARS = 3000
"""Of each symbol whose features are computed again."""


def _work(context: StageContext) -> StageOutput:
    context.progress.update("reading what the run holds")
    inputs = gather(context)
    context.progress.update("looking for leaks")
    findings = audit(inputs, context.recipe.audit)
    path = context.path("audit.json")
    evaluated = context.inputs["evaluate"].fingerprint
    record = {"evaluated": evaluated, "findings": [to_plain(finding) for finding in findings]}
    context.storage.write_text(path, json.dumps(record, indent=1))
    failed = [finding.check for finding in findings if finding.outcome == "failed"]
    return StageOutput(outputs={"findings": path, "failed": failed}, summary=_summary(findings))


def refuse_leaks(resolved: Resolved[Recipe], made: StageRecord) -> None:
    """Raises: LeakageError: a check of the audit failed; names all that did."""
    if not made.outputs["failed"]:
        return
    storage = Storage(resolved.value.storage).absolute()
    findings = json.loads(storage.read_text(made.outputs["findings"]))["findings"]
    failed = [finding for finding in findings if finding["outcome"] == "failed"]
    raise LeakageError(
        f"the audit of run {resolved.value.run.name!r} found {len(failed)} of {len(findings)} checks failing. "
        + " ".join(f"{finding['check']}: {finding['detail']}." for finding in failed)
        + f" All findings: {storage.uri(made.outputs['findings'])}",
        failed=[finding["check"] for finding in failed],
    )


def audit_run(resolved: Resolved[Recipe], *, console: Console, overwrite: bool = False) -> None:
    """Audit a finished run by itself. Raises: LeakageError: see `refuse_leaks`; the findings are kept."""
    refuse_leaks(resolved, perform([STAGE], resolved, overwrite=overwrite, console=console)["audit"])


def _summary(findings: tuple[Finding, ...]) -> str:
    failed = [finding for finding in findings if finding.outcome == "failed"]
    open_ = [finding for finding in findings if finding.outcome == "not_checked"]
    said = f"{sum(finding.outcome == 'passed' for finding in findings)} checks passed"
    said += "".join(f"; FAILED, {finding.check}: {finding.detail}" for finding in failed)
    return said + "".join(f"; not checked, {finding.check}: {finding.detail}" for finding in open_)


def gather(context: StageContext) -> AuditInputs:
    """Read what the audit looks at: targets as the models got them, tables, bars, answers, and the log of looks."""
    recipe, plan, chunks, bars = context.recipe, split_plan(context), chunk_store(context), checked_bars(context)
    outcome = f"return_{recipe.policy.horizon_bars}"
    cut = bars.symbols[:: max(1, len(bars.symbols) // recipe.audit.symbols)][: recipe.audit.symbols]
    read = with_context(bars, context.inputs["features"])
    own = FeaturePlan(recipe.feature_set).per_symbol
    features = table_version(context, "features")
    columns = ["symbol", "timestamp", *(name for name in own.columns if name in recipe.feature_set.columns)]
    instruments = instrument_versions(context)
    labels = labels_table(context).read(
        table_version(context, "labels").version, columns=["symbol", "timestamp", outcome, "t_end"]
    )
    return AuditInputs(
        rows=_targets(chunks, outcome),
        feature_columns=chunks.spec.feature_columns,
        labels=labels.rename({outcome: "outcome"}),
        bars=pl.concat(bars.read(symbol).select("symbol", "timestamp", "close") for symbol in bars.symbols),
        split=plan,
        moments=_moments(chunks),
        stored_features=LakeTable(context.storage, features.path).read(features.version, columns=columns, symbols=cut),
        cut_bars={symbol: read(symbol).head(_LATEST_BARS) for symbol in cut},
        recompute=functools.partial(compute_features, features=own),
        bar_length=Timeframe(plan.timeframe).delta,
        answers=pl.concat(
            read_predictions(context, model.label, "test").select(
                "symbol",
                "timestamp",
                pl.lit(model.label).alias("model"),
                pl.col(f"expected_{outcome}").alias("expected_return"),
            )
            for model in recipe.models
        ),
        looks=LookLog(context.storage).count(str(context.output("ingest", "table")), plan.interval("test")),
        instruments=None
        if instruments is None
        else LakeTable(context.storage, instruments.listings.path).read(instruments.listings.version),
    )


def _targets(chunks: ChunkStore, outcome: str) -> pl.DataFrame:
    """One row per counted target, with the features of its decision bar."""
    spec, parts = chunks.spec, []
    first, place, names = (
        spec.lookback_bars - 1,
        spec.label_columns.index(outcome),
        np.array(spec.symbols, dtype=object),
    )
    for segment in SEGMENTS:
        for batch in chunks.read(segment):
            counted = batch.mask_BC
            x_RF = batch.x_BTF[:, first:][counted]
            columns: dict[str, Any] = {
                "symbol": pl.Series(
                    names[np.broadcast_to(batch.symbol_id_B[:, None], counted.shape)[counted]], dtype=pl.String
                ),
                "timestamp": pl.Series(batch.time_BC[counted], dtype=pl.Datetime("us")).dt.replace_time_zone("UTC"),
                "outcome": batch.y_BCK[..., place][counted].astype(np.float64),
            }
            columns |= {name: x_RF[:, i] for i, name in enumerate(spec.feature_columns)}
            parts.append(pl.DataFrame(columns).with_columns(segment=pl.lit(segment)))
    return pl.concat(parts)


def _moments(chunks: ChunkStore) -> Mapping[str, tuple[float, float]]:
    stats = chunks.stats
    pairs = zip(stats.feature_mean_F, stats.feature_std_F, strict=True)
    return {
        name: (float(mean), float(std)) for name, (mean, std) in zip(chunks.spec.feature_columns, pairs, strict=True)
    }


STAGE = Stage(
    name="audit",
    help="Look for leaks in a finished run: future, overlap, scaler, universe, peeking, canaries.",
    needs=("ingest", "quality", "features", "labels", "split", "chunks", "train", "evaluate"),
    settings=("audit", "policy.horizon_bars"),
    work=_work,
    always=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE, judge=refuse_leaks))
