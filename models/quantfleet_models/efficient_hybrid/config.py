"""Settings of the efficient hybrid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet_models.hybrid import HybridConfig
from quantfleet_models.parts.checks import check_within_window

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EfficientHybridConfig"]

Positive = Annotated[int, Field(ge=1)]


@register_model("efficient_hybrid")
@dataclass(frozen=True, kw_only=True, slots=True)
class EfficientHybridConfig(HybridConfig):
    """The hybrid, wide and deep (about 5 million parameters), made cheap: its convolution goes feature by feature, and
    nothing is computed that the last row does not need. Ready for streams: positions are rotary.

    Source: as `hybrid`; convolutions in two steps: Chollet 2016, arXiv:1610.02357.
    """

    width: Positive = 256
    attention_heads: Positive = 8
    attention_layers: Positive = 5
    recurrent_layers: Positive = 2
    feed_forward_factor: Positive = 4
    kernel_bars: Positive = 7
    positions: Literal["learned", "rotary", "none"] = "rotary"
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.5

    def build_network(self, spec: DataSpec) -> nn.Module:
        """Raises: ConfigError: a convolution or a scale is longer than the window, or a package is missing."""
        from quantfleet_models.efficient_hybrid.model import EfficientHybridNetwork

        check_within_window(self.label, "kernel_bars", self.kernel_bars, spec)
        for bars in self.scales_bars:
            check_within_window(self.label, "scales_bars", bars, spec)
        return EfficientHybridNetwork(self, spec)
