"""The temporal convolutional network.

Shapes: N windows, L look-back bars, F inputs, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.parts.convolution import CausalConv
from quantfleet_models.parts.network import SequenceNetwork
from quantfleet_models.tcn.config import TCNConfig

__all__ = ["TCNNetwork", "TemporalBlock", "WeightNormConv", "blocks_for", "receptive_bars"]


def receptive_bars(blocks: int, kernel_bars: int) -> int:
    """How many bars the last row reads through so many blocks of dilation 1, 2, 4, ..."""
    return 1 + 2 * (kernel_bars - 1) * ((1 << blocks) - 1)


def blocks_for(bars: int, kernel_bars: int) -> int:
    """The fewest blocks that read so many bars."""
    blocks = 1
    while receptive_bars(blocks, kernel_bars) < bars:
        blocks += 1
    return blocks


class WeightNormConv(nn.Module):
    """Causal convolution whose kernels have a length of their own: weight = gain x direction / |direction|.

    Source: Salimans and Kingma 2016, arXiv:1602.07868, equation 2.
    """

    def __init__(self, inputs: int, outputs: int, kernel_bars: int, *, dilation: int = 1) -> None:
        super().__init__()
        plain = CausalConv(inputs, outputs, kernel_bars, dilation=dilation)
        self.left, self.dilation = plain.left, dilation
        self.direction = nn.Parameter(plain.conv.weight.detach().clone())
        self.gain = nn.Parameter(self.direction.detach().norm(dim=(1, 2), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x_NLF: Tensor) -> Tensor:
        """(N, L, F) to (N, L, D)."""
        x_NFL = nn.functional.pad(x_NLF.transpose(1, 2), (self.left, 0))
        weight = self.gain * self.direction / self.direction.norm(dim=(1, 2), keepdim=True)
        return nn.functional.conv1d(x_NFL, weight, self.bias, dilation=self.dilation).transpose(1, 2)


class TemporalBlock(nn.Module):
    """relu(x + f(x)), f two times convolution, ReLU, dropout; x passes a 1 x 1 convolution where the widths differ.

    Source: Bai, Kolter and Koltun 2018, arXiv:1803.01271, figure 1b.
    """

    def __init__(self, inputs: int, outputs: int, kernel_bars: int, *, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = WeightNormConv(inputs, outputs, kernel_bars, dilation=dilation)
        self.second = WeightNormConv(outputs, outputs, kernel_bars, dilation=dilation)
        self.skip = nn.Linear(inputs, outputs) if inputs != outputs else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_NLF: Tensor) -> Tensor:
        """(N, L, F) to (N, L, D)."""
        inner = self.dropout(nn.functional.relu(self.first(x_NLF)))
        inner = self.dropout(nn.functional.relu(self.second(inner)))
        return nn.functional.relu(inner + self.skip(x_NLF))


class TCNNetwork(SequenceNetwork):
    """Blocks whose dilation doubles from one to the next."""

    def __init__(self, config: TCNConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.width, dropout=config.dropout)
        blocks = config.blocks or blocks_for(spec.lookback_bars, config.kernel_bars)
        self.blocks = nn.ModuleList(
            TemporalBlock(
                config.width if i else spec.features,
                config.width,
                config.kernel_bars,
                dilation=2**i,
                dropout=config.dropout,
            )
            for i in range(blocks)
        )

    def hidden(self, x_NLF: Tensor) -> Tensor:
        for block in self.blocks:
            x_NLF = block(x_NLF)
        return x_NLF

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        last = self.blocks[-1]
        assert isinstance(last, TemporalBlock)
        return tuple(last.second.parameters())
