"""Settings of N-HiTS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.errors import ConfigError
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_within_window

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NHITSConfig"]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


@register_model("nhits")
@dataclass(frozen=True, kw_only=True, slots=True)
class NHITSConfig(TorchModelConfig):
    """Blocks that look at one channel at several rates, coarse to fine, each explaining what the ones before it left over.

    Source: Challu et al. 2023, arXiv:2201.12886, section 3. Weights are shared by all channels.
    """

    pool_bars: tuple[Positive, ...] = (4, 2, 1)
    """One block per entry: it sees the maximum of so many bars at a time."""
    downsample: tuple[Positive, ...] = (4, 2, 1)
    """One per block: its forecast has one knot for so many steps, with straight lines between them."""
    width: Positive = 64
    """Of the two hidden layers in each block."""
    dropout: Share = 0.0
    steps: Positive = 4
    """S, numbers per channel that the heads read: what would be steps ahead in a forecast of the channel."""

    def __post_init__(self) -> None:
        if not self.pool_bars or len(self.pool_bars) != len(self.downsample):
            raise ConfigError(
                f"pool_bars={list(self.pool_bars)} and downsample={list(self.downsample)} describe the same blocks, one entry "
                "each; give both the same length, one or more."
            )

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.nhits.model import NHITSNetwork

        check_within_window(self.label, "pool_bars", max(self.pool_bars), spec)
        return NHITSNetwork(self, spec)
