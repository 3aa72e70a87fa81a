"""Settings of the temporal convolutional network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_within_window

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TCNConfig"]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


@register_model("tcn")
@dataclass(frozen=True, kw_only=True, slots=True)
class TCNConfig(TorchModelConfig):
    """Residual blocks of two causal convolutions whose dilation doubles from block to block: 1, 2, 4, ...

    Source: Bai, Kolter and Koltun 2018, arXiv:1803.01271, section 3; weight normalisation as there.
    """

    width: Positive = 32
    """D, channels of every block."""
    kernel_bars: Annotated[int, Field(ge=2)] = 3
    blocks: Annotated[int, Field(ge=1, le=16)] | None = None
    """None: as many as it takes to read the whole window."""
    dropout: Share = 0.1

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.tcn.model import TCNNetwork

        check_within_window(self.label, "kernel_bars", self.kernel_bars, spec)
        return TCNNetwork(self, spec)
