"""One network per task.

Shapes: N windows, L look-back bars, F features, H horizons.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec, ModelConfig
from quantfleet.errors import ConfigError
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.network import WindowNetwork
from quantfleet_models.task_ensemble.config import TaskEnsembleConfig

__all__ = ["TASKS", "TaskEnsembleNetwork"]

TASKS = {"return": ("return", "quantiles"), "direction": ("direction", "confidence"), "volatility": ("volatility",)}
"""Heads of each task's network."""


class TaskEnsembleNetwork(nn.Module):
    """Networks beside each other; heads that a network is not asked for are taken off it, so every parameter is in use."""

    def __init__(self, config: TaskEnsembleConfig, spec: DataSpec) -> None:
        super().__init__()
        chosen = dict.fromkeys(TASKS, config.network)
        chosen["volatility"] = config.volatility_network or config.network
        self.tasks = nn.ModuleDict(
            {task: self._network(config, chosen[task], spec, heads) for task, heads in TASKS.items()}
        )

    @staticmethod
    def _network(config: TaskEnsembleConfig, inner: ModelConfig, spec: DataSpec, heads: tuple[str, ...]) -> nn.Module:
        assert isinstance(inner, TorchModelConfig)
        network = replace(inner, loss=config.loss).build_network(spec)
        if not isinstance(network, WindowNetwork):
            raise ConfigError(
                f"{config.label}.network={inner.kind!r} does not keep its heads apart, so it cannot be asked for one task. "
                f"Use gru, tcn, "
                "transformer, xlstm or hybrid."
            )
        for name in set(network.heads) - set(heads):
            del network.heads[name]
        return network

    def forward(self, x_NLF: Tensor) -> dict[str, Tensor]:
        heads: dict[str, Tensor] = {}
        asked = []
        for network in self.tasks.values():
            own = network(x_NLF)
            if "auxiliary" in own:
                asked.append(own.pop("auxiliary"))
            heads.update(own)
        if asked:
            heads["auxiliary"] = torch.stack(asked).sum()
        return heads
