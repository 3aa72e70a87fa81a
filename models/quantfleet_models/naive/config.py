"""Settings of the naive models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, ModelConfig, register_model
from quantfleet.errors import ConfigError

if TYPE_CHECKING:
    from quantfleet.contracts import Model

__all__ = ["BuyAndHoldConfig", "MovingAverageConfig", "NaiveConfig", "ZeroReturnConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NaiveConfig(ModelConfig):
    """Base of the naive models: baselines, never promoted."""

    @property
    def baseline(self) -> bool:
        return True


@register_model("zero_return")
@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroReturnConfig(NaiveConfig):
    """Persistence: tomorrow's price is today's, so the expected return is zero and no position is taken."""

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.naive.model import ZeroReturn

        return ZeroReturn(self, spec)


@register_model("buy_and_hold")
@dataclass(frozen=True, kw_only=True, slots=True)
class BuyAndHoldConfig(NaiveConfig):
    """Always fully invested; its forecast is the mean return of the training segment."""

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.naive.model import BuyAndHold

        return BuyAndHold(self, spec)


@register_model("moving_average")
@dataclass(frozen=True, kw_only=True, slots=True)
class MovingAverageConfig(NaiveConfig):
    """Long while the fast simple moving average stands above the slow one, else out of the market (or short)."""

    fast_bars: Annotated[int, Field(ge=1)] = 50
    slow_bars: Annotated[int, Field(ge=2)] = 200
    short_below: bool = False
    """Hold -1 instead of 0 while the fast average is below."""

    def __post_init__(self) -> None:
        if self.fast_bars >= self.slow_bars:
            raise ConfigError(f"fast_bars={self.fast_bars} must be shorter than slow_bars={self.slow_bars}.")

    @property
    def column(self) -> str:
        """Feature column with fast average / slow average - 1."""
        return f"sma_ratio_{self.fast_bars}_{self.slow_bars}"

    @property
    def required_features(self) -> tuple[str, ...]:
        return (self.column,)

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.naive.model import MovingAverage

        return MovingAverage(self, spec)
