"""The metrics every run reports: forecast quality, and what was earned after costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.errors import ConfigError
from quantfleet.evaluation import forecast, metrics
from quantfleet.evaluation.base import EvaluationView, MetricConfig, register_metric
from quantfleet.evaluation.bootstrap import sharpe_interval

__all__ = [
    "DirectionalAccuracyMetric",
    "InformationCoefficientMetric",
    "MaxDrawdownMetric",
    "ReturnMetric",
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
