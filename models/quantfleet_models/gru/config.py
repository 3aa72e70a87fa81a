"""Settings of the GRU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import TorchModelConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["GRUConfig"]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


@register_model("gru")
@dataclass(frozen=True, kw_only=True, slots=True)
class GRUConfig(TorchModelConfig):
    """Stacked gated recurrent units; the last state sums the window up.

    Source: Cho et al. 2014, arXiv:1406.1078, in the variant of cuDNN and torch (reset gate after the product).
    """

    width: Positive = 48
    """D, size of the state."""
    layers: Positive = 2
    dropout: Share = 0.1
    """Between layers, and before the heads."""

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.gru.model import GRUNetwork

        return GRUNetwork(self, spec)
