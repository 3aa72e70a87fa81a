"""The metric contract: what a metric sees of a model's test period, and the numbers it returns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from quantfleet.errors import ConfigError, SchemaError, nearest
from quantfleet.plugins import PluginConfig, PluginRegistry

__all__ = [
    "CURVE_COLUMNS",
    "METRICS",
    "PREDICTION_COLUMNS",
    "EvaluationView",
    "MetricConfig",
    "evaluate_model",
    "register_metric",
]

PREDICTION_COLUMNS = (
    "symbol",
    "timestamp",
    "expected_return",
    "direction_probability",
    "position",
    "realised_return",
)
CURVE_COLUMNS = ("timestamp", "equity", "net_return", "drawdown", "turnover", "exposure", "trades")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationView:
    """One model's answers over one period, and what they earned.

    Raises: SchemaError: a frame lacks a column. ConfigError: bars_per_year is not positive.
    """

    predictions: pl.DataFrame
    """PREDICTION_COLUMNS, all of the primary horizon, one row per symbol and decision time. `expected_return` and
    `realised_return` are fractions over the horizon from the open after the decision, `direction_probability` is the
    chance of a positive return, `position` is null unless a rule model decides; `realised_return` is null where it is
    not known yet."""
    curve: pl.DataFrame
    """`BacktestResult.curve()`: at least CURVE_COLUMNS, one row per bar."""
    bars_per_year: float
    """252 for daily equities, 8760 for hourly crypto."""

    def __post_init__(self) -> None:
        for noun, frame, columns in (
            ("predictions", self.predictions, PREDICTION_COLUMNS),
            ("curve", self.curve, CURVE_COLUMNS),
        ):
            for name in columns:
                if name not in frame.columns:
                    raise SchemaError(f"{noun} have no column {name!r}.{nearest(name, frame.columns)}", column=name)
        if not self.bars_per_year > 0:
            raise ConfigError(f"bars_per_year={self.bars_per_year} must be above 0; 252 for daily equities.")


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricConfig(PluginConfig):
    """Base config of every metric: frozen parameters that compute one or several named numbers. Pure and seeded."""

    @abstractmethod
    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        """Return named numbers; NaN where undefined, never 0 in its place.

        Raises: ValueError: the period is too short for the metric.
        """


METRICS: PluginRegistry[MetricConfig] = PluginRegistry("metric", MetricConfig, command="metrics")
register_metric = METRICS.register


def evaluate_model(view: EvaluationView, metrics: Sequence[MetricConfig]) -> dict[str, float]:
    """Compute all metrics of one model.

    Returns: every metric's numbers in one mapping, in the order given.
    Raises: ConfigError: two metrics return the same name.
    """
    scores: dict[str, float] = {}
    owners: dict[str, str] = {}
    for metric in metrics:
        for name, value in metric.compute(view).items():
            if name in scores:
                raise ConfigError(
                    f"metrics {owners[name]!r} and {metric.kind!r} both return {name!r}; list one of them.", metric=name
                )
            scores[name] = float(value)
            owners[name] = metric.kind
    return scores
