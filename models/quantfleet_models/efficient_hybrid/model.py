"""The network of the efficient hybrid.

Shapes: N windows, L bars, D width, K bars under the convolution.
"""

from __future__ import annotations

from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.efficient_hybrid.config import EfficientHybridConfig
from quantfleet_models.hybrid.model import HybridNetwork

__all__ = ["EfficientHybridNetwork", "SeparableConv"]


class SeparableConv(nn.Module):
    """A causal convolution in two steps: over bars feature by feature, then over features bar by bar; K D + D^2 weights, not K D^2.

    Source: Chollet 2016, arXiv:1610.02357.
    """

    def __init__(self, width: int, kernel_bars: int) -> None:
        super().__init__()
        self.left = kernel_bars - 1
        self.conv = nn.Sequential(nn.Conv1d(width, width, kernel_bars, groups=width), nn.Conv1d(width, width, 1))
        """Over rows with the bars before them, as the hybrid's stream feeds them."""

    def forward(self, x_NLD: Tensor) -> Tensor:
        x_NDL = nn.functional.pad(x_NLD.transpose(1, 2), (self.left, 0))
        out: Tensor = self.conv(x_NDL).transpose(1, 2)
        return out


class EfficientHybridNetwork(HybridNetwork):
    """The hybrid's network around a separable convolution."""

    def __init__(self, config: EfficientHybridConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.conv = SeparableConv(config.width, config.kernel_bars)  # type: ignore[assignment]
