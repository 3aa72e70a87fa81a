"""The convolutional network.

Shapes: N windows, L look-back bars, F features, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.cnn.config import CNNConfig
from quantfleet_models.parts.convolution import CausalConv
from quantfleet_models.parts.network import SequenceNetwork

__all__ = ["CNNNetwork"]


class CNNNetwork(SequenceNetwork):
    """A stack of causal convolutions, each followed by ReLU."""

    def __init__(self, config: CNNConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.width, dropout=config.dropout)
        inputs = [spec.features, *[config.width] * (config.layers - 1)]
        self.convs = nn.ModuleList(CausalConv(size, config.width, config.kernel_bars) for size in inputs)

    def hidden(self, x_NLF: Tensor) -> Tensor:
        for conv in self.convs:
            x_NLF = nn.functional.relu(conv(x_NLF))
        return x_NLF

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.convs[-1].parameters())
