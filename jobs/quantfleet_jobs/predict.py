"""Job: let a registered model answer for the latest bar of every symbol."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from quantfleet.contracts import ChunkBatch, Timeframe
from quantfleet.errors import DataError, EmptyTableError
from quantfleet.registry.artifact import StoredModel
from quantfleet.registry.store import ModelRegistry
from quantfleet_data.feature_store import latest_features
from quantfleet_jobs.evaluate import scores_of
from quantfleet_jobs.inputs import checked_bars, with_context
from quantfleet_jobs.main import job_main
from quantfleet_jobs.predictions import prediction_rows
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE", "answer_latest", "best_candidate", "chosen_version", "predict_with"]


def answer_latest(stored: StoredModel, features: pl.DataFrame) -> pl.DataFrame:
    """Answer for the last bar of one symbol.

    Args:
        stored: loaded with `chunk_bars=1`.
        features: the symbol's newest rows as `latest_features` gives them, at least a look-back window of them.
    Returns: one row, columns of `prediction_rows` without what came true.
    Raises: DataError: the symbol is unknown to the model, or its last window is not complete.
    """
    spec, symbol = stored.model.spec, str(features["symbol"][0])
    if symbol not in spec.symbols:
        raise DataError(f"the model was fitted on {', '.join(spec.symbols)}; it does not know {symbol!r}.")
    window = features.tail(spec.lookback_bars)
    x_LF = window.select(spec.feature_columns).to_numpy().astype(np.float32)
    if len(x_LF) < spec.lookback_bars or not np.isfinite(x_LF).all():
        raise DataError(
            f"{symbol}: the last {spec.lookback_bars} bars do not all have defined features; the model needs "
            f"{spec.lookback_bars + stored.features.lookback_bars - 1} bars of history without a gap in what they read."
        )
    if spec.max_gap_bars is not None:
        bar_us = Timeframe(spec.timeframe).delta // dt.timedelta(microseconds=1)
        missing = int(np.diff(window["timestamp"].dt.epoch("us").to_numpy()).max(initial=bar_us)) // bar_us - 1
        if missing > spec.max_gap_bars:
            raise DataError(
                f"{symbol}: {missing} bars are missing within the last {spec.lookback_bars}; the model was fitted on "
                f"windows with at most {spec.max_gap_bars} (windows.max_gap_bars). Ingest again, or wait for new bars."
            )
    batch = ChunkBatch(
        chunk_id_B=np.zeros(1, np.int64),
        symbol_id_B=np.array([spec.symbols.index(symbol)], np.int32),
        time_BC=window["timestamp"].tail(1).dt.epoch("us").to_numpy()[None],
        x_BTF=x_LF[None],
        y_BCK=np.full((1, 1, len(spec.label_columns)), np.nan, np.float32),
        mask_BC=np.ones((1, 1), np.bool_),
        weight_BC=np.ones((1, 1), np.float32),
    )
    answer = pl.from_arrow(prediction_rows(batch, stored.model.predict(batch), spec))
    assert isinstance(answer, pl.DataFrame)
    return answer.drop(c for c in answer.columns if c.startswith("realised_"))


def predict_with(
    symbols: Sequence[str],
    read: Callable[[str], pl.DataFrame],
    registry: ModelRegistry,
    *,
    name: str,
    version: int | None = None,
    alias: str | None = None,
) -> tuple[pl.DataFrame, int]:
    """Load a version (or the one under an alias), verify it, and answer for the latest bar of each symbol it knows.

    Args:
        symbols: all of the table, for cross-sections compare with all of them.
        read: a symbol's bars with every column the features read.
    """
    stored, found = registry.load(name, version=version, alias=alias, chunk_bars=1)
    if not set(symbols) & set(stored.model.spec.symbols):
        raise DataError(f"none of {', '.join(symbols)} is known to {name} version {found}.")
    rows = latest_features(read, symbols, stored.features, stored.model.spec.lookback_bars)
    known = [rows[symbol] for symbol in symbols if symbol in rows and symbol in stored.model.spec.symbols]
    if not known:
        raise EmptyTableError(
            "there are no bars to answer for: nothing was ingested, or quality quarantined all of them."
        )
    return pl.concat([answer_latest(stored, features) for features in known]), found


def _work(context: StageContext) -> StageOutput:
    name, ingest = context.recipe.registered_name, context.inputs["ingest"]
    version, alias, who = chosen_version(context)
    bars = checked_bars(context)
    reader = with_context(bars, context.inputs["features"])
    answers, found = predict_with(bars.symbols, reader, context.registry, name=name, version=version, alias=alias)
    path = context.path("latest.parquet")
    context.storage.write_parquet(path, answers)
    horizons = [int(c.rsplit("_", 1)[1]) for c in answers.columns if c.startswith("expected_return_")]
    h = context.recipe.policy.horizon_bars
    h = h if h in horizons else horizons[-1]  # an older version may forecast others
    said = ", ".join(
        f"{row['symbol']} {row[f'expected_return_{h}']:+.2%} over {h} bars (up {row[f'direction_probability_{h}']:.0%})"
        for row in answers.iter_rows(named=True)
    )
    return StageOutput(
        outputs={
            "answers": path,
            "model_name": name,
            "version": found,
            "chosen": who,
            "bars": f"{ingest.outputs['table']}@{ingest.outputs['version']}",
        },
        summary=f"{who}: {said}",
    )


def chosen_version(context: StageContext) -> tuple[int | None, str | None, str]:
    """The version or the alias to load, and a word on why it answers."""
    asked, registry, name = context.recipe.predict, context.registry, context.recipe.registered_name
    if asked.version is not None:
        return asked.version, None, f"version {asked.version}, as asked for"
    alias = asked.alias or registry.config.alias
    version = registry.alias_version(name, alias)
    if version is not None:
        return version, None, f"{alias}, version {version}"
    registered, evaluated = context.record.find("register"), context.record.find("evaluate")
    if asked.alias is not None or registered is None or evaluated is None or registered.outputs["model_name"] != name:
        return None, alias, alias  # the registry says what is missing
    scores = {
        m.label: scores_of(evaluated, m.label, context.storage)["validation"].get("sharpe", math.nan)
        for m in [m for m in context.recipe.models if not m.baseline] or context.recipe.models
        if m.label in registered.outputs["versions"]
    }
    best, why = best_candidate(scores, registered.outputs["versions"])
    version = int(registered.outputs["versions"][best])
    return version, None, f"version {version} ({best}: {why}; nothing has been promoted)"


def best_candidate(validation_sharpe: Mapping[str, float], versions: Mapping[str, int]) -> tuple[str, str]:
    """Who answers while nothing is promoted, and why: never chosen by the test period, which would be used up by it.

    Args:
        validation_sharpe: model to its Sharpe ratio on validation; NaN where not known.
        versions: every registered model of the run to its version.
    """
    known = {name: sharpe for name, sharpe in validation_sharpe.items() if math.isfinite(sharpe)}
    if known:
        best = max(known, key=lambda name: known[name])
        return best, f"best Sharpe ratio on validation, {known[best]:.2f}"
    return max(validation_sharpe or versions, key=lambda name: versions[name]), "the newest of the run"


STAGE = Stage(
    name="predict",
    help="Load the champion (or a version), verify its checksum, answer for the latest bar.",
    needs=("ingest", "quality", "features"),
    settings=("predict", "registry.alias"),
    work=_work,
    uses_registry=True,
    always=True,  # another run may have moved the alias
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
