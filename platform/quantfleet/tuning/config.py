"""The search: which settings, over which values, how many trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from quantfleet.errors import ConfigError

__all__ = ["ParameterRange", "SearchConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterRange:
    """Values of one setting: a list of choices, or an interval (whole numbers when both bounds are)."""

    choices: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    """Draw evenly on a logarithmic scale."""

    def __post_init__(self) -> None:
        bounds = self.low is not None and self.high is not None
        if (self.choices is not None) == bounds or (self.low is None) != (self.high is None):
            raise ConfigError("give either `choices`, or both `low` and `high`.")
        if self.choices is not None and not self.choices:
            raise ConfigError("choices is empty; list at least one value.")
        if self.low is not None and self.high is not None:
            if not self.low < self.high:
                raise ConfigError(f"low={self.low} must be below high={self.high}.")
            if self.log and self.low <= 0:
                raise ConfigError(f"low={self.low} with log=true must be above 0.")

    @property
    def whole(self) -> bool:
        return all(bound is not None and bound == int(bound) and bound >= 1 for bound in (self.low, self.high))


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """Trials of one model on Ray Tune over Ray Train, an Optuna sampler (TPE) and ASHA."""

    model: str
    """Name of the model in `models` whose settings are searched."""
    space: dict[str, ParameterRange]
    """Setting of that model (`learning_rate`, `width`) to its values."""
    trials: Annotated[int, Field(ge=1)] = 6
    concurrent_trials: Annotated[int, Field(ge=1)] = 1
    workers_per_trial: Annotated[int, Field(ge=1)] = 1
    grace_epochs: Annotated[int, Field(ge=1)] = 1
    """Epochs every trial may run before ASHA can stop it."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """ASHA goes on with one in so many trials at each rung. Source: Li et al. 2020, arXiv:1810.05934."""

    def __post_init__(self) -> None:
        if not self.space:
            raise ConfigError("space is empty; name at least one setting to search.")
