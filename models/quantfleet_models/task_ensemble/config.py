"""Settings of one network per task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantfleet.contracts import DataSpec, ModelConfig, register_model
from quantfleet.errors import ConfigError
from quantfleet.training import TorchModelConfig
from quantfleet_models.gru import GRUConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TaskEnsembleConfig"]


@register_model("task_ensemble")
@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEnsembleConfig(TorchModelConfig):
    """A network of its own for each task (return with its quantiles, direction with its confidence, volatility), trained in one
    fit: no task can spoil the features of another. What `hybrid` shares, this does not; the difference is what sharing is worth.

    Source: single-task networks as the baseline of multi-task learning: Caruana 1997, "Multitask Learning".
    """

    network: ModelConfig = field(default_factory=GRUConfig)
    """Architecture of each task's network: a torch model whose heads read one row. Its own optimiser, loss and inputs do not count:
    those of this model do."""
    volatility_network: ModelConfig | None = None
    """Another architecture for the volatility, which wants less memory; None: the same."""

    def __post_init__(self) -> None:
        for config in (self.network, self.volatility_network):
            if config is not None and not isinstance(config, TorchModelConfig):
                raise ConfigError(
                    f"{self.label} builds networks of torch models, and {config.kind!r} is none; use gru, tcn, hybrid or another."
                )
        if self.loss.balance == "gradnorm":
            raise ConfigError(
                f"{self.label} has no layer that all tasks read, which loss.balance=gradnorm weighs them by. Use fixed or "
                f"uncertainty."
            )

    def build_network(self, spec: DataSpec) -> nn.Module:
        """Raises: ConfigError: an architecture does not fit the window, or its heads cannot be parted."""
        from quantfleet_models.task_ensemble.model import TaskEnsembleNetwork

        return TaskEnsembleNetwork(self, spec)
