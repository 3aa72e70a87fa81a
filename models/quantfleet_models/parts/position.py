"""Positional encodings: what tells a row from its neighbours where attention sees a set.

Shapes: L rows, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["LearnedPosition", "SinusoidalPosition", "sinusoidal_position"]


def sinusoidal_position(rows: int, width: int) -> Tensor:
    """Sines in the even columns, cosines in the odd ones, (rows, width); wavelengths rise from 2 pi to 10,000 x 2 pi.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    at_L1 = torch.arange(rows, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    table_LD = torch.zeros(rows, width)
    table_LD[:, 0::2] = torch.sin(at_L1 * rate)
    table_LD[:, 1::2] = torch.cos(at_L1 * rate[: width // 2])
    return table_LD


class SinusoidalPosition(nn.Module):
    """Adds the fixed table of `sinusoidal_position`; it is made anew, not stored with the weights."""

    table_LD: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("table_LD", sinusoidal_position(rows, width), persistent=False)

    def forward(self, x_NLD: Tensor) -> Tensor:
        return x_NLD + self.table_LD[: x_NLD.shape[1]]


class LearnedPosition(nn.Module):
    """Adds one learned row per place."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table_LD = nn.Parameter(torch.randn(rows, width) * 0.02)

    def forward(self, x_NLD: Tensor) -> Tensor:
        return x_NLD + self.table_LD[: x_NLD.shape[1]]
