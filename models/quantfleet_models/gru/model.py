"""The network of the GRU.

Shapes: N windows, L look-back bars, F features, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.gru.config import GRUConfig
from quantfleet_models.parts.network import SequenceNetwork

__all__ = ["GRUNetwork"]


class GRUNetwork(SequenceNetwork):
    """Stacked GRU and a norm."""

    def __init__(self, config: GRUConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.width, dropout=config.dropout)
        between = config.dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(spec.features, config.width, config.layers, batch_first=True, dropout=between)
        self.norm = nn.LayerNorm(config.width)

    def hidden(self, x_NLF: Tensor) -> Tensor:
        out: Tensor = self.norm(self.gru(x_NLF)[0])
        return out

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.norm.parameters())
