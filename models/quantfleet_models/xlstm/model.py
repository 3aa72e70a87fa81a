"""The network of the xLSTM.

Shapes: N windows, L look-back bars, F features, D width.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.parts.network import SequenceNetwork
from quantfleet_models.xlstm.config import XLSTMConfig, XLSTMStackConfig
from quantfleet_models.xlstm.layers import row_norm
from quantfleet_models.xlstm.mlstm import MLSTMBlock, MLSTMState
from quantfleet_models.xlstm.slstm import SLSTMBlock, SLSTMState

__all__ = ["XLSTMNetwork", "XLSTMStack", "XLSTMState"]

XLSTMState = list[MLSTMState | tuple[SLSTMState, Tensor]]
"""One state per block."""


class XLSTMStack(nn.Module):
    """Residual blocks, then a norm; (N, L, D) to (N, L, D), causal along L. L is free."""

    def __init__(self, config: XLSTMStackConfig) -> None:
        super().__init__()
        D, heads = config.width, config.memory_heads
        shared = {
            "heads": heads, "kernel_bars": config.kernel_bars, "blocks": config.blocks, "dropout": config.dropout,
        }  # fmt: skip
        inner = _up(config.mlstm_factor * D, math.lcm(heads, config.block_features))
        feed_forward = _up(config.feed_forward_factor * D, 8)
        self.layers = nn.ModuleList(
            SLSTMBlock(D, inner=feed_forward, place=place, **shared)  # type: ignore[arg-type]
            if place in config.slstm_at
            else MLSTMBlock(D, inner=inner, block_features=config.block_features, **shared)  # type: ignore[arg-type]
            for place in range(config.blocks)
        )
        self.norm = row_norm(D)

    def forward(self, x_NLD: Tensor) -> Tensor:
        for layer in self.layers:
            x_NLD = layer(x_NLD)
        out: Tensor = self.norm(x_NLD)
        return out

    def begin(self, like_ND: Tensor) -> XLSTMState:
        """State before the first bar of N streams."""
        return [layer.begin(like_ND) for layer in self.layers]  # type: ignore[operator]

    def step(self, x_ND: Tensor, state: XLSTMState) -> tuple[Tensor, XLSTMState]:
        """One bar of each stream, equal to its row of `forward` over all bars of the stream."""
        after: XLSTMState = []
        for layer, before in zip(self.layers, state, strict=True):
            x_ND, carried = layer.step(x_ND, before)  # type: ignore[operator]
            after.append(carried)
        return self.norm(x_ND), after


class XLSTMNetwork(SequenceNetwork):
    """Standardised features to heads through a stack of blocks."""

    def __init__(self, config: XLSTMConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.width, dropout=config.dropout)
        self.embed = nn.Linear(spec.features, config.width)
        self.stack = XLSTMStack(config)

    def hidden(self, x_NLF: Tensor) -> Tensor:
        out: Tensor = self.stack(self.embed(x_NLF))
        return out

    def check_streams(self) -> None:
        """Nothing here depends on a place in a window."""

    def begin(self, like_NF: Tensor) -> XLSTMState:
        return self.stack.begin(like_NF.new_zeros(len(like_NF), self.embed.out_features))

    def step(self, x_NF: Tensor, state: XLSTMState) -> tuple[dict[str, Tensor], XLSTMState]:
        row_ND, state = self.stack.step(self.embed(x_NF), state)
        heads: dict[str, Tensor] = self.heads(row_ND)
        return heads, state

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.stack.norm.parameters())


def _up(size: float, multiple: int) -> int:
    return multiple * math.ceil(size / multiple)
