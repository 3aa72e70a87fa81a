"""The metrics every run reports: forecast quality, and what was earned after costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.errors import ConfigError
from quantfleet.evaluation import classes, forecast, metrics, scoring
from quantfleet.evaluation.base import EvaluationView, MetricConfig, register_metric
from quantfleet.evaluation.bootstrap import sharpe_interval
from quantfleet.evaluation.ic import ic_by_time, icir

__all__ = [
    "DirectionClassesMetric",
    "DirectionalAccuracyMetric",
    "ForecastErrorMetric",
    "InformationCoefficientMetric",
    "InformationRatioOfIcMetric",
    "MaxDrawdownMetric",
    "ReturnMetric",
    "RiskMetric",
    "SharpeMetric",
    "SortinoMetric",
    "TurnoverMetric",
]


def _column(frame: pl.DataFrame, name: str) -> npt.NDArray[np.float64]:
    return frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()


@register_metric("ic")
@dataclass(frozen=True, kw_only=True, slots=True)
class InformationCoefficientMetric(MetricConfig):
    """Pearson (ic) and Spearman (rank_ic) correlation of expected and realised return, pooled over all rows."""

    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        expected, realised = (_column(view.predictions, name) for name in ("expected_return", "realised_return"))
        return {
            "ic": forecast.information_coefficient(expected, realised),
            "rank_ic": forecast.rank_ic(expected, realised),
        }


@register_metric("directional_accuracy")
@dataclass(frozen=True, kw_only=True, slots=True)
class DirectionalAccuracyMetric(MetricConfig):
    """Share of right up/down calls, beside the share of up moves and of rows with a call (probability not one half)."""

    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        call = _column(view.predictions, "direction_probability") - 0.5
        realised = _column(view.predictions, "realised_return")
        return {
            "directional_accuracy": forecast.directional_accuracy(call, realised),
            "up_share": forecast.up_share(realised),
            "call_share": forecast.call_share(call, realised),
        }


@register_metric("sharpe")
@dataclass(frozen=True, kw_only=True, slots=True)
class SharpeMetric(MetricConfig):
    """Annualised Sharpe ratio after costs with its bootstrap interval (sharpe, sharpe_low, sharpe_high)."""

    confidence: float = 0.95
    """Of the two-sided interval."""
    resamples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.confidence < 1.0 or self.resamples < 1:
            raise ConfigError(
                f"metric sharpe: confidence={self.confidence} must lie between 0 and 1, resamples={self.resamples} "
                "must be at least 1."
            )

    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        interval = sharpe_interval(
            _column(view.curve, "net_return"),
            bars_per_year=view.bars_per_year,
            seed=self.seed,
            confidence=self.confidence,
            resamples=self.resamples,
        )
        return {"sharpe": interval.estimate, "sharpe_low": interval.low, "sharpe_high": interval.high}


@register_metric("sortino")
@dataclass(frozen=True, kw_only=True, slots=True)
class SortinoMetric(MetricConfig):
    """Annualised Sortino ratio after costs, target zero."""

    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        return {"sortino": metrics.sortino(_column(view.curve, "net_return"), bars_per_year=view.bars_per_year)}


@register_metric("max_drawdown")
@dataclass(frozen=True, kw_only=True, slots=True)
class MaxDrawdownMetric(MetricConfig):
    """Largest loss from a high of the equity to a later low, as a positive fraction."""

    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        return {"max_drawdown": metrics.max_drawdown(_column(view.curve, "net_return"))}


@register_metric("turnover")
@dataclass(frozen=True, kw_only=True, slots=True)
class TurnoverMetric(MetricConfig):
    """Turnover per year, number of trades, and average exposure."""

    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        turnover = _column(view.curve, "turnover")
        return {
            "turnover_per_year": metrics.turnover_per_year(turnover, bars_per_year=view.bars_per_year),
            "trades": float(view.curve["trades"].sum()),
            "exposure": metrics.exposure(_column(view.curve, "exposure")),
        }


@register_metric("return")
@dataclass(frozen=True, kw_only=True, slots=True)
class ReturnMetric(MetricConfig):
    """Total and annual return, annual volatility and share of winning bars, after costs."""

    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        returns = _column(view.curve, "net_return")
        return {
            "total_return": metrics.total_return(returns),
            "annual_return": metrics.annual_return(returns, bars_per_year=view.bars_per_year),
            "annual_volatility": metrics.annual_volatility(returns, bars_per_year=view.bars_per_year),
            "hit_rate": metrics.hit_rate(returns),
        }


@register_metric("risk")
@dataclass(frozen=True, kw_only=True, slots=True)
class RiskMetric(MetricConfig):
    """Calmar, Omega, profit factor, tail ratio, value at risk, expected shortfall, and the longest drawdown in bars."""

    confidence: float = 0.95
    """Of value at risk, expected shortfall and tail ratio: 0.95 looks at the worst 5 % of the bars."""

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1.0:
            raise ConfigError(f"metric risk: confidence={self.confidence} must lie between 0.5 and 1; 0.95 is usual.")

    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        returns = _column(view.curve, "net_return")
        broken = bool(np.isnan(returns).any())
        return {
            "calmar": metrics.calmar(returns, bars_per_year=view.bars_per_year),
            "omega": metrics.omega(returns),
            "profit_factor": metrics.profit_factor(returns),
            "tail_ratio": metrics.tail_ratio(returns, confidence=self.confidence),
            "value_at_risk": metrics.value_at_risk(returns, confidence=self.confidence),
            "expected_shortfall": metrics.expected_shortfall(returns, confidence=self.confidence),
            "drawdown_length_bars": math.nan if broken else float(metrics.drawdown_length_bars(returns)),
        }


@register_metric("forecast_error")
@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastErrorMetric(MetricConfig):
    """Mean squared and mean absolute error of the expected return, pooled over all rows."""

    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        expected, realised = (_column(view.predictions, name) for name in ("expected_return", "realised_return"))
        return {
            "mse": scoring.mean_squared_error(expected, realised),
            "mae": scoring.mean_absolute_error(expected, realised),
        }


@register_metric("direction_classes")
@dataclass(frozen=True, kw_only=True, slots=True)
class DirectionClassesMetric(MetricConfig):
    """Precision, recall and F1 of the calls up and down, and how far the stated chances can be believed.

    A chance of exactly one half calls nothing and is left out of the classes, as in `directional_accuracy`.
    """

    bins: int = 10
    """Of the calibration error."""

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ConfigError(f"metric direction_classes: bins={self.bins} must be at least 1.")

    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        chance = _column(view.predictions, "direction_probability")
        realised = _column(view.predictions, "realised_return")
        known = ~np.isnan(realised)
        unknown_call = bool(np.isnan(chance[known]).any())
        called = known & (chance != 0.5) & ~np.isnan(chance)
        scores = classes.class_scores((chance[called] > 0.5).astype(int), (realised[called] > 0.0).astype(int))
        found: dict[str, float] = {}
        for name, number in (("up", 1), ("down", 0)):
            score = None if unknown_call else scores.get(number)
            for part in ("precision", "recall", "f1"):
                found[f"{part}_{name}"] = math.nan if score is None else float(getattr(score, part))
        happened = np.where(known, (realised > 0.0).astype(np.float64), np.nan)
        found["brier"] = classes.brier_score(chance, happened)
        found["calibration_error"] = classes.reliability(chance, happened, bins=self.bins).expected_error
        return found


@register_metric("icir")
@dataclass(frozen=True, kw_only=True, slots=True)
class InformationRatioOfIcMetric(MetricConfig):
    """Mean and information ratio (mean over deviation, not annualised) of the rank IC across symbols, time by time."""

    min_symbols: int = 5
    """Times with fewer symbols have no coefficient."""

    def __post_init__(self) -> None:
        if self.min_symbols < 3:
            raise ConfigError(
                f"metric icir: min_symbols={self.min_symbols} must be at least 3; of 2 the IC is 1 or -1."
            )

    def compute(self, view: EvaluationView) -> Mapping[str, float]:
        series = ic_by_time(view.predictions, at_least=self.min_symbols)["ic"].to_numpy()
        return {"ic_by_time": float(series.mean()) if len(series) else math.nan, "icir": icir(series)}
