"""What a report is made of: plain data that the jobs collect, checked once, here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from quantfleet.errors import ConfigError, DataError, SchemaError, TimeError, nearest

__all__ = ["CURVE_COLUMNS", "FEATURE_COLUMNS", "SEGMENTS", "ModelPage", "ReportInputs", "StageRow"]

CURVE_COLUMNS = ("timestamp", "equity", "net_return", "drawdown")
FEATURE_COLUMNS = ("feature", "lookback_bars", "source", "mean", "std", "missing_share", "ic_train")
SEGMENTS = ("train", "validation", "test")
VERDICTS = ("PROMOTE", "HOLD")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRow:
    """What one stage of the run did."""

    name: str
    seconds: float
    """Wall clock."""
    summary: str
    """One line: "10,062 bars of 2 symbols"."""
    inputs: tuple[str, ...] = ()
    """Versioned names: "bars@v3"."""
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPage:
    """One model on the untouched test period.

    Raises:
        SchemaError: the curve lacks a column.
        DataError: the curve is empty, the verdict unknown, or a naive model promoted.
    """

    name: str
    kind: str
    """Name of the model plugin."""
    baseline: bool
    """True for naive models: the yardstick, never promoted."""
    metrics: Mapping[str, float]
    """What `evaluate_model` returned, under its names; NaN where undefined."""
    curve: pl.DataFrame
    """At least CURVE_COLUMNS, sorted by time; fractions after costs, drawdown 0 or negative."""
    learning_curve: Sequence[Mapping[str, float]] = ()
    """Rows of epoch, train_loss, val_loss; empty for models that do not learn in epochs."""
    fit_seconds: float = 0.0
    parameters: int = 0
    verdict: str
    """PROMOTE or HOLD."""
    reasons: tuple[tuple[str, bool, str], ...] = ()
    """(gate, passed, reason) for every gate, in the order they were asked."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Plain data of the evaluation beside the scores: slices, costs, delays, ic_decay, calibration; what is absent is not shown."""

    def __post_init__(self) -> None:
        _need_columns(self.curve, CURVE_COLUMNS, f"the curve of {self.name!r}")
        if self.curve.is_empty():
            raise DataError(f"the curve of {self.name!r} has no bars; evaluate the model before reporting on it.")
        if self.verdict not in VERDICTS:
            raise DataError(f"{self.name!r} has the verdict {self.verdict!r}; it must be PROMOTE or HOLD.")
        if self.baseline and self.verdict == "PROMOTE":
            raise DataError(f"{self.name!r} is a naive model and cannot be promoted; its verdict must be HOLD.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInputs:
    """Everything a report shows.

    Raises:
        DataError: no models, two models of one name, a missing split segment.
        ConfigError: the benchmark is not among the models.
        SchemaError: the feature table lacks a column.
        TimeError: `created_utc` has no time zone.
    """

    run_name: str
    created_utc: dt.datetime
    version: str
    """Of quantfleet."""
    config: Mapping[str, Any]
    """The resolved config as `to_plain` gives it: secrets already masked. It is printed as it is."""
    data_versions: Mapping[str, str]
    """Table to version: {"bars": "3", "features": "1 (set 5f0c…)"}."""
    stages: tuple[StageRow, ...] = ()
    quality: Mapping[str, Any]
    """The quality report as plain data: timeframe, rows, counts, policy, symbols. Empty when none was made."""
    features: pl.DataFrame
    """At least FEATURE_COLUMNS; `ic_train` is measured on the training segment only, shares are fractions."""
    split: Mapping[str, tuple[dt.datetime, dt.datetime]]
    """SEGMENTS to [start, end) in UTC."""
    models: tuple[ModelPage, ...]
    benchmark: str
    """Name of the buy-and-hold model among `models`."""
    confidence: float = 0.95
    """Of the interval [sharpe_low, sharpe_high]."""
    prices_note: str = ""
    """What the prices are and what they leave out: "index levels without dividends"."""
    notes: tuple[str, ...] = ()
    """Caveats to print beside the headline."""
    bars_per_year: float = 252.0
    verdict: Mapping[str, Any] | None = None
    """`RunVerdict` as plain data: all candidates against the best naive model; None where nothing could be compared."""
    looks: int = 0
    """Evaluations of this test period so far; 0 where nobody counted."""
    input_shift: Mapping[str, Any] | None = None
    """`InputShift` as plain data; None where there were too few rows to compare."""
    audit: tuple[Mapping[str, Any], ...] = ()
    """Findings of the leakage audit as plain data; empty where none was made."""

    def __post_init__(self) -> None:
        if not self.models:
            raise DataError(
                f"run {self.run_name!r} has no models to report on; a report needs the benchmark and at least one "
                "model that was evaluated."
            )
        names = [page.name for page in self.models]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise DataError(f"a report cannot tell models of one name apart: {', '.join(doubled)}.")
        if self.benchmark not in names:
            raise ConfigError(
                f"report.benchmark={self.benchmark!r} is not among the models of this run: {', '.join(names)}."
                f"{nearest(self.benchmark, names)} Every report compares with buy and hold; add it to the recipe.",
                benchmark=self.benchmark,
            )
        absent = [segment for segment in SEGMENTS if segment not in self.split]
        if absent:
            raise DataError(f"the split has no {', '.join(absent)}; a report needs {', '.join(SEGMENTS)}.")
        _need_columns(self.features, FEATURE_COLUMNS, "the feature table of the report")
        if self.created_utc.tzinfo is None:
            raise TimeError(f"report.created_utc={self.created_utc} is naive; give it in UTC.")
        if not 0.0 < self.confidence < 1.0:
            raise ConfigError(f"report.confidence={self.confidence} must lie between 0 and 1; 0.95 is 95%.")

    @property
    def candidates(self) -> tuple[ModelPage, ...]:
        """Models that could have been promoted."""
        return tuple(page for page in self.models if not page.baseline)

    @property
    def benchmark_page(self) -> ModelPage:
        return next(page for page in self.models if page.name == self.benchmark)


def _need_columns(frame: pl.DataFrame, columns: Sequence[str], noun: str) -> None:
    for name in columns:
        if name not in frame.columns:
            raise SchemaError(f"{noun} has no column {name!r}.{nearest(name, frame.columns)}", column=name)
