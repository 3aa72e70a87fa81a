"""Settings of DLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_odd

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DLinearConfig"]

Positive = Annotated[int, Field(ge=1)]


@register_model("dlinear")
@dataclass(frozen=True, kw_only=True, slots=True)
class DLinearConfig(TorchModelConfig):
    """Each channel is split into a moving average and the rest, with one linear map over time for each; no other parts.

    Source: Zeng et al. 2023, arXiv:2205.13504, section 4. The maps are shared by all channels.
    """

    average_bars: Positive = 25
    """Bars of the centred moving average, an odd number; the window's ends are repeated, so it may be longer than the window."""
    steps: Positive = 4
    """S, numbers per channel that the heads read: what would be steps ahead in a forecast of the channel."""

    def __post_init__(self) -> None:
        check_odd("average_bars", self.average_bars)

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.dlinear.model import DLinearNetwork

        return DLinearNetwork(self, spec)
