"""Settings of the hierarchical network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.errors import ConfigError
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_divides, check_within_window

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HierarchicalConfig"]

Positive = Annotated[int, Field(ge=1)]


@register_model("hierarchical")
@dataclass(frozen=True, kw_only=True, slots=True)
class HierarchicalConfig(TorchModelConfig):
    """The window at several timeframes, aligned at the decision bar: a recurrent encoder each, told what the coarser one saw, and
    attention of the finest over all of them.

    Source: several timescales in one recurrent network: El Hihi and Bengio 1995; attention over levels: Yang et al. 2016,
    "Hierarchical Attention Networks".
    """

    timeframes_bars: tuple[Positive, ...] = (1, 4, 12)
    """Bars of the data in one bar of each level, rising. A level sees the blocks that end at the decision bar; bars that fill no
    block are left to the finer levels."""
    width: Positive = 32
    """D, features of every hidden row."""
    attention_heads: Positive = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        check_divides(total=self.width, total_name="width", part=self.attention_heads, part_name="attention_heads")
        if len(self.timeframes_bars) < 2 or any(low >= high for low, high in pairwise(self.timeframes_bars)):
            raise ConfigError(
                f"timeframes_bars={list(self.timeframes_bars)} must name two timeframes or more, rising, e.g. [1, 4, 12]."
            )

    def build_network(self, spec: DataSpec) -> nn.Module:
        """Raises: ConfigError: a level has no whole block in the window."""
        from quantfleet_models.hierarchical.model import HierarchicalNetwork

        check_within_window(self.label, "timeframes_bars", self.timeframes_bars[-1], spec)
        return HierarchicalNetwork(self, spec)
