"""The latest bar is answered exactly as the model answers it inside a chunk, or not at all."""

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from support.stored_models import FEATURES, PROVENANCE, SPEC, fitted, store

from quantfleet.contracts import (
    ChunkBatch,
    DataSpec,
    FitContext,
    FitReport,
    Forecast,
    Model,
    ModelConfig,
    Timeframe,
    TrainingData,
)
from quantfleet.errors import DataError, EmptyTableError
from quantfleet.registry.artifact import StoredModel, read_artifact
from quantfleet_data.chunks.build import chunk_segment, symbol_rows
from quantfleet_data.feature_store import latest_features
from quantfleet_data.features import compute_features
from quantfleet_data.labels import Direction, ForwardReturn, LabelsConfig, RealisedVolatility, compute_labels
from quantfleet_data.splits import TimeSplit
from quantfleet_jobs.predict import answer_latest as answer_features
from quantfleet_jobs.predict import best_candidate, predict_with
from quantfleet_jobs.predictions import prediction_rows

LABELS = LabelsConfig(
    families=(
        ForwardReturn(horizons_bars=(1, 5)),
        Direction(horizons_bars=(1, 5)),
        RealisedVolatility(horizons_bars=(1, 5)),
    )
)


def bars(rows: int = 60, symbol: str = "BBB", seed: int = 3) -> pl.DataFrame:
    """A random walk of daily bars."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, rows)))
    opened = close * np.exp(rng.normal(0, 0.005, rows))
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    return pl.DataFrame(
        {
            "symbol": [symbol] * rows,
            "timestamp": pl.Series([start + dt.timedelta(days=i) for i in range(rows)], dtype=pl.Datetime("us", "UTC")),
            "open": opened,
            "high": np.maximum(opened, close) * 1.01,
            "low": np.minimum(opened, close) * 0.99,
            "close": close,
            "volume": [1.0] * rows,
        }
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EchoConfig(ModelConfig):
    """A model whose answers show the window they were made from."""

    def build(self, spec: DataSpec) -> Model:
        return Echo(self, spec)


class Echo(Model):
    """Returns: the window's largest and oldest value; direction: its newest row; volatility: the symbol's number."""

    def __init__(self, config: ModelConfig, spec: DataSpec) -> None:
        self.config, self.spec = config, spec

    def fit(self, data: TrainingData, context: FitContext) -> FitReport:
        raise NotImplementedError

    def save(self, directory: Path) -> None:
        raise NotImplementedError

    def load(self, directory: Path) -> None:
        raise NotImplementedError

    def predict(self, batch: ChunkBatch) -> Forecast:
        L, (B, C) = self.spec.lookback_bars, batch.mask_BC.shape
        windows_BCLF = np.stack([batch.x_BTF[:, i : i + L] for i in range(C)], axis=1)
        symbol_BCH = np.broadcast_to(batch.symbol_id_B[:, None, None], (B, C, 2)).astype(np.float32)
        return Forecast(
            return_BCH=np.stack([windows_BCLF.max(axis=(2, 3)), windows_BCLF[:, :, 0, 0]], axis=-1),
            direction_logit_BCH=windows_BCLF[:, :, -1],
            volatility_BCH=symbol_BCH,
            position_BC=batch.time_BC.astype(np.float32),
        )


@pytest.fixture
def echo() -> StoredModel:
    return StoredModel(EchoConfig().build(replace(SPEC, chunk_bars=1)), FEATURES, PROVENANCE, "digest")


def answers_through_chunks(model: Model, history: pl.DataFrame) -> pl.DataFrame:
    """What training and evaluation would see: features of the whole history, cut into chunks, every target answered."""
    features, labels = compute_features(history, FEATURES), compute_labels(history, LABELS, Timeframe("1d"))
    plan = TimeSplit(validation_fraction=0.2, test_fraction=0.4, embargo_bars=5).plan(
        labels.select("symbol", "timestamp", "t_end"), horizon_bars=LABELS.horizon_bars, timeframe=Timeframe("1d")
    )
    rows = symbol_rows(features, labels, plan, model.spec)
    batch = chunk_segment(rows, "test", model.spec.symbols.index(history["symbol"][0]), model.spec)
    answers = pl.from_arrow(prediction_rows(batch, model.predict(batch), model.spec))
    assert isinstance(answers, pl.DataFrame)
    return answers.drop(pl.selectors.starts_with("realised_"))


def answer_latest(stored: StoredModel, history: pl.DataFrame) -> pl.DataFrame:
    """As `predict` does it: features of the whole history, its newest rows to the model."""
    symbol = str(history["symbol"][0])
    rows = latest_features(lambda _: history, (symbol,), FEATURES, SPEC.lookback_bars)
    return answer_features(stored, rows[symbol])


def test_every_bar_of_the_test_period_is_answered_as_it_was_when_it_was_the_latest(echo: StoredModel):
    history = bars()
    known = answers_through_chunks(EchoConfig().build(SPEC), history)
    assert known.height > 2 * SPEC.chunk_bars, "several chunks, so every place in a chunk is met"

    live = pl.concat(
        [answer_latest(echo, history.filter(pl.col("timestamp") <= moment)) for moment in known["timestamp"]]
    )

    assert live.equals(known)


def test_a_stored_model_answers_as_the_fitted_one_through_chunks(tmp_path: Path):
    history = bars()
    known = answers_through_chunks(fitted(), history)
    folder, digest = store(tmp_path)

    stored = read_artifact(folder, digest=digest, chunk_bars=1)

    last = known.tail(1)
    assert answer_latest(stored, history.filter(pl.col("timestamp") <= last["timestamp"][0])).equals(last)


def test_the_answer_is_one_row_that_names_symbol_and_bar_and_claims_no_outcome(echo: StoredModel):
    history = bars()
    answer = answer_latest(echo, history)
    assert answer.select("symbol", "timestamp").row(0) == ("BBB", history["timestamp"][-1])
    assert answer.height == 1
    assert [column for column in answer.columns if "realised" in column] == []
    assert answer["expected_volatility_1"][0] == SPEC.symbols.index("BBB")


@pytest.mark.parametrize("rows", [1, 5, 7])
def test_a_history_too_short_for_one_whole_window_is_refused_with_the_number_it_needs(rows: int, echo: StoredModel):
    with pytest.raises(DataError) as caught:
        answer_latest(echo, bars(rows))
    assert caught.value.message == (
        "BBB: the last 4 bars do not all have defined features; the model needs 8 bars of history without a gap in what they "
        "read."
    )


def test_the_shortest_history_that_fills_a_window_is_answered(echo: StoredModel):
    assert answer_latest(echo, bars(8)).height == 1


def test_a_symbol_the_model_was_not_fitted_on_is_refused_with_those_it_knows(echo: StoredModel):
    with pytest.raises(DataError, match=r"^the model was fitted on AAA, BBB; it does not know 'CCC'\.$"):
        answer_latest(echo, bars(symbol="CCC"))


def test_a_window_with_a_hole_larger_than_the_model_was_fitted_on_is_refused():
    strict = StoredModel(
        EchoConfig().build(replace(SPEC, chunk_bars=1, max_gap_bars=1)), FEATURES, PROVENANCE, "digest"
    )
    history = bars()
    assert answer_latest(strict, history.filter(pl.int_range(60) != 58)).height == 1
    with pytest.raises(DataError, match=r"BBB: 2 bars are missing within the last 4"):
        answer_latest(strict, history.filter(~pl.int_range(60).is_in([57, 58])))


# --- through the registry ---


def read(symbol: str) -> pl.DataFrame:
    """Stands in for `CheckedBars.read`."""
    return bars(symbol=symbol)


@pytest.fixture
def registry(echo: StoredModel) -> Any:
    """Stands in for ModelRegistry; remembers how it was asked."""
    asked: list[dict[str, Any]] = []

    def load(name: str, **how: Any) -> tuple[StoredModel, int]:
        asked.append({"name": name, **how})
        return echo, 4

    return SimpleNamespace(load=load, asked=asked)


def test_symbols_the_model_does_not_know_are_left_out(registry: Any):
    answers, version = predict_with(("AAA", "BBB", "CCC"), read, registry, name="indices")
    assert answers["symbol"].to_list() == ["AAA", "BBB"]
    assert version == 4


def test_a_lake_without_any_symbol_the_model_knows_is_an_error(registry: Any):
    with pytest.raises(DataError, match=r"^none of CCC, DDD is known to indices version 4\.$"):
        predict_with(("CCC", "DDD"), read, registry, name="indices")


def test_no_bars_get_no_answer(registry: Any):
    with pytest.raises(EmptyTableError, match="there are no bars to answer for"):
        predict_with(("AAA",), lambda symbol: bars().clear(), registry, name="indices")


def test_the_version_or_alias_asked_for_is_the_one_that_is_loaded(registry: Any):
    predict_with(("AAA",), read, registry, name="indices", version=2)
    predict_with(("AAA",), read, registry, name="indices", alias="challenger")
    assert registry.asked == [
        {"name": "indices", "version": 2, "alias": None, "chunk_bars": 1},
        {"name": "indices", "version": None, "alias": "challenger", "chunk_bars": 1},
    ]


# --- who answers while nothing is promoted ---


def test_the_best_on_validation_answers_and_says_so():
    best, why = best_candidate(
        {"hybrid": 0.4, "xgboost": 1.2, "broken": np.nan}, {"hybrid": 1, "xgboost": 2, "broken": 3}
    )
    assert (best, why) == ("xgboost", "best Sharpe ratio on validation, 1.20")


def test_without_any_score_on_validation_the_newest_answers():
    versions = {"hybrid": 7, "xgboost": 8, "zero_return": 9}
    assert best_candidate({"hybrid": np.nan, "xgboost": np.nan}, versions) == ("xgboost", "the newest of the run")
    assert best_candidate({}, versions)[0] == "zero_return"
