"""Convolutions along time that never look ahead.

Shapes: N windows, L bars, F inputs, D outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["CausalConv"]


class CausalConv(nn.Module):
    """1-D convolution that pads on the left only: the value at bar t reads bars t, t - dilation, .., kernel_bars of them.

    The padding is zeros: bars before the window count as the mean, for inputs are standardised.

    Source: van den Oord et al. 2016, arXiv:1609.03499, section 2.1.
    """

    def __init__(self, inputs: int, outputs: int, kernel_bars: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.left = (kernel_bars - 1) * dilation
        self.conv = nn.Conv1d(inputs, outputs, kernel_bars, dilation=dilation)

    @property
    def receptive_bars(self) -> int:
        """How many bars one output reads, the last one included, from the first to the last of them."""
        return self.left + 1

    def forward(self, x_NLF: Tensor) -> Tensor:
        """(N, L, F) to (N, L, D)."""
        x_NFL = nn.functional.pad(x_NLF.transpose(1, 2), (self.left, 0))
        out: Tensor = self.conv(x_NFL).transpose(1, 2)
        return out
