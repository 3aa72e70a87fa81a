"""What both kinds of xLSTM block are made of: projections in blocks, a causal convolution per feature, a norm per head.

Shapes: N windows, L bars, D features, Z heads, E features of a head (D = Z E), K bars under the convolution.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quantfleet_models.parts.rolling_attention import in_parts

__all__ = ["CausalDepthwise", "HeadNorm", "HeadwiseLinear", "at_least_single", "row_norm", "small_init"]


def small_init(weight: Tensor, features: int) -> None:
    """Normal with variance 2 / (5 x features). Source: Nguyen and Salazar 2019, arXiv:1910.05895."""
    nn.init.normal_(weight, std=math.sqrt(2 / (5 * features)))


def at_least_single(x: Tensor) -> Tensor:
    """Gates are exponentials, which half precision cannot hold."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def row_norm(features: int) -> nn.LayerNorm:
    """Layer norm without a bias, as the paper's code has it."""
    return nn.LayerNorm(features, bias=False)


class HeadwiseLinear(nn.Module):
    """A linear map that mixes features within a block only; without bias."""

    def __init__(self, features: int, blocks: int, *, init_features: int | None = None) -> None:
        super().__init__()
        size = features // blocks
        self.weight = nn.Parameter(torch.empty(blocks, size, size))
        small_init(self.weight, init_features or features)

    def forward(self, x: Tensor) -> Tensor:
        blocks = in_parts(x, len(self.weight))
        return torch.einsum("...zi,zoi->...zo", blocks, self.weight).flatten(-2)


class CausalDepthwise(nn.Module):
    """A convolution of every feature on its own: the value at bar t reads bars t-K+1 .. t."""

    def __init__(self, features: int, kernel_bars: int) -> None:
        super().__init__()
        self.kernel_bars = kernel_bars
        self.conv = nn.Conv1d(features, features, kernel_bars, groups=features)

    def forward(self, x_NLD: Tensor) -> Tensor:
        x_NDL = nn.functional.pad(x_NLD.transpose(1, 2), (self.kernel_bars - 1, 0))
        out: Tensor = self.conv(x_NDL).transpose(1, 2)
        return out

    def begin(self, like_ND: Tensor) -> Tensor:
        """The K-1 rows before the first bar of a stream: zeros, (N, K-1, D)."""
        return like_ND.new_zeros(len(like_ND), self.kernel_bars - 1, like_ND.shape[1])

    def step(self, x_ND: Tensor, past_NKD: Tensor) -> tuple[Tensor, Tensor]:
        """One bar: its value and the rows that the next bar needs."""
        rows_NKD = torch.cat([past_NKD, x_ND[:, None]], dim=1)
        out_ND = torch.einsum("nkd,dk->nd", rows_NKD, self.conv.weight[:, 0])
        bias = self.conv.bias
        assert bias is not None
        return out_ND + bias, rows_NKD[:, 1:]


class HeadNorm(nn.Module):
    """Normalises each head's features on their own; one weight per feature, no bias."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x_NLD: Tensor) -> Tensor:
        heads = in_parts(x_NLD, self.heads)
        return nn.functional.layer_norm(heads, heads.shape[-1:]).flatten(-2) * self.weight
