"""Settings of the convolutional network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_within_window

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CNNConfig"]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


@register_model("cnn")
@dataclass(frozen=True, kw_only=True, slots=True)
class CNNConfig(TorchModelConfig):
    """Causal convolutions of one kernel size, each with a ReLU; reads `layers` x (`kernel_bars` - 1) + 1 bars.

    Source: LeCun et al. 1989, Neural Computation 1(4), one-dimensional; causal padding: van den Oord et al. 2016,
    arXiv:1609.03499.
    """

    width: Positive = 32
    """D, channels of every layer."""
    layers: Positive = 3
    kernel_bars: Annotated[int, Field(ge=2)] = 5
    dropout: Share = 0.1

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.cnn.model import CNNNetwork

        check_within_window(self.label, "kernel_bars", self.kernel_bars, spec)
        return CNNNetwork(self, spec)
