"""Normalisation of one window by its own moments, and its undoing: what makes a forecaster indifferent to the level.

Shapes: N windows, L bars, S steps ahead, F channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["WindowNorm"]


class WindowNorm(nn.Module):
    """Reversible instance normalisation: each channel of each window to mean 0 and spread 1, and answers back to its units.

    Moments are those of the whole window, population variance plus `epsilon`. They are returned, not kept: no state.

    Source: Kim et al. 2022, "Reversible Instance Normalization", ICLR.

    Args:
        affine: learn a scale and a shift per channel, undone with the rest.
        centre: what is subtracted, the window's mean or its last bar.
    """

    def __init__(
        self, channels: int, *, affine: bool = False, centre: Literal["mean", "last"] = "mean", epsilon: float = 1e-5
    ) -> None:
        super().__init__()
        self.epsilon, self.centre = epsilon, centre
        self.weight_F = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias_F = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x_NLF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns: normalised (N, L, F), its centre (N, 1, F) and its spread (N, 1, F)."""
        centre = x_NLF[:, -1:] if self.centre == "last" else x_NLF.mean(1, keepdim=True)
        spread = torch.sqrt(x_NLF.var(1, keepdim=True, unbiased=False) + self.epsilon)
        x_NLF = (x_NLF - centre) / spread
        if self.weight_F is not None and self.bias_F is not None:
            x_NLF = x_NLF * self.weight_F + self.bias_F
        return x_NLF, centre, spread

    def undo(self, y_NSF: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
        """Forecasts of normalised windows back to the units of the window, (N, S, F)."""
        if self.weight_F is not None and self.bias_F is not None:
            y_NSF = (y_NSF - self.bias_F) / (self.weight_F + self.epsilon**2)
        return y_NSF * spread + centre
