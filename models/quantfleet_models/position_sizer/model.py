"""The network of the position sizer.

Shapes: N windows, L look-back bars, F features, D width of the last hidden layer.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.parts.network import WindowNetwork
from quantfleet_models.position_sizer.config import PositionSizerConfig

__all__ = ["PositionSizerNetwork"]


class PositionSizerNetwork(WindowNetwork):
    """MLP on the last row; heads as all forecasters have, and one more, "position" (N, 1), between 0 and 1."""

    def __init__(self, config: PositionSizerConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.widths[-1])
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((spec.features, *config.widths)))
        self.between = nn.Dropout(config.dropout)
        self.heads["position"] = nn.Sequential(nn.Linear(config.widths[-1], 1), nn.Sigmoid())

    def summary(self, x_NLF: Tensor) -> Tensor:
        row = x_NLF[:, -1]
        for layer in self.layers:
            row = self.between(torch.relu(layer(row)))
        return row

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.layers[-1].parameters())
