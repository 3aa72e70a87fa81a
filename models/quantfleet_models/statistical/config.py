"""Settings of the classical time-series models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, ModelConfig, register_model

if TYPE_CHECKING:
    from quantfleet.contracts import Model

__all__ = ["ARIMAConfig", "ETSConfig", "GARCHConfig", "ProphetConfig", "SeriesConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesConfig(ModelConfig):
    """What models of one series share: parameters are fitted on each symbol's training returns, once; an answer filters the returns
    of its window with them. A symbol without enough training returns gets the mean of the other symbols' parameters."""

    return_feature: str = "log_return_1"
    """Feature column with the return of each bar, a fraction."""
    least_rows: Annotated[int, Field(ge=30)] = 100
    """Training returns that a symbol needs for parameters of its own."""

    @property
    def required_features(self) -> tuple[str, ...]:
        return (self.return_feature,)


@register_model("arima")
@dataclass(frozen=True, kw_only=True, slots=True)
class ARIMAConfig(SeriesConfig):
    """ARMA of each symbol's returns, orders chosen by AICc (AutoARIMA without differencing); constant volatility.

    Needs the extra `statistical`. Source: Hyndman and Khandakar 2008, "Automatic Time Series Forecasting".
    """

    most_ar: Annotated[int, Field(ge=0, le=10)] = 3
    most_ma: Annotated[int, Field(ge=0, le=10)] = 3

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.statistical.model import ARIMAModel

        return ARIMAModel(self, spec)


@register_model("ets")
@dataclass(frozen=True, kw_only=True, slots=True)
class ETSConfig(SeriesConfig):
    """Simple exponential smoothing of each symbol's returns (ETS with additive errors, no trend, no season); constant volatility.

    Needs the extra `statistical`. Source: Hyndman et al. 2002, "A State Space Framework for Automatic Forecasting".
    """

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.statistical.model import ETSModel

        return ETSModel(self, spec)


@register_model("garch")
@dataclass(frozen=True, kw_only=True, slots=True)
class GARCHConfig(SeriesConfig):
    """GARCH(1, 1) of each symbol's returns around a constant mean: volatility comes in clusters and returns to its level.

    Source: Bollerslev 1986, "Generalized Autoregressive Conditional Heteroskedasticity".
    """

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.statistical.model import GARCHModel

        return GARCHModel(self, spec)


@register_model("prophet")
@dataclass(frozen=True, kw_only=True, slots=True)
class ProphetConfig(SeriesConfig):
    """Prophet of each symbol's log price: a trend that bends, and what day of the week, day of the year and hour of the day say.
    It answers by the time of a bar alone; volatility is constant.

    Needs the extra `prophet` to fit. Source: Taylor and Letham 2018, "Forecasting at Scale", The American Statistician 72(1).
    """

    changepoints: Annotated[int, Field(ge=0, le=100)] = 25
    """Places at which the trend may bend, in the first four fifths of the training segment."""
    changepoint_scale: Annotated[float, Field(gt=0)] = 0.05
    """How far it bends; the deviation of a bend's prior."""
    weekly: bool = True
    yearly: bool = True
    daily: bool = False
    """For bars shorter than a day."""

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.statistical.prophet import ProphetModel

        return ProphetModel(self, spec)
