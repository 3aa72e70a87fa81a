"""Settings of the small hybrid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.errors import ConfigError
from quantfleet.training import TorchModelConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HybridConfig"]

Positive = Annotated[int, Field(ge=1)]


@register_model("hybrid")
@dataclass(frozen=True, kw_only=True, slots=True)
class HybridConfig(TorchModelConfig):
    """Causal convolution, then LSTM and Transformer side by side, gated together; heads for return, direction, volatility,
    and quantiles where `loss.quantiles` names them.

    Source: the three parts are the standard ones (van den Oord et al. 2016; Hochreiter and Schmidhuber 1997; Vaswani et al.
    2017); the gated sum of the two paths is this project's choice.
    """

    width: Positive = 32
    """D, features of every hidden row."""
    kernel_bars: Positive = 5
    """Bars under one convolution."""
    attention_heads: Positive = 4
    attention_layers: Positive = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        if self.width % self.attention_heads:
            raise ConfigError(
                f"width={self.width} does not divide by attention_heads={self.attention_heads}; use a multiple of it."
            )

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.hybrid.model import HybridNetwork

        if self.kernel_bars > spec.lookback_bars:
            raise ConfigError(
                f"{self.label}.kernel_bars={self.kernel_bars} is longer than the window, lookback_bars={spec.lookback_bars}."
            )
        return HybridNetwork(self, spec)
