"""The strategy contract: a config that names a way to share the work, and the engine a worker runs it with."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from quantfleet.plugins import PluginConfig, PluginRegistry

if TYPE_CHECKING:
    from quantfleet.training.strategies.engine import Engine

__all__ = ["STRATEGIES", "EngineSettings", "Precision", "StrategyConfig", "register_strategy"]

Precision = Literal["32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """What every engine needs to know of a fit."""

    use_gpu: bool
    precision: Precision
    gradient_clip: float
    """Largest norm of the gradient."""
    micro_windows: int
    """Windows of one forward and backward pass on this worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyConfig(PluginConfig):
    """Base config of how the workers of one fit share the work."""

    shards_parameters: ClassVar[bool] = False
    """True where no worker holds all parameters, so that they must be gathered to be read."""

    @abstractmethod
    def build(self, settings: EngineSettings) -> Engine:
        """Make the engine; called on a worker, inside Ray Train's context.

        Raises: ConfigError: a package that the strategy needs is not installed.
        """


STRATEGIES: PluginRegistry[StrategyConfig] = PluginRegistry("strategy", StrategyConfig, command="strategies")
register_strategy = STRATEGIES.register
