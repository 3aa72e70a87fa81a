"""Settings of the Temporal Fusion Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_divides

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TFTConfig"]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


@register_model("tft")
@dataclass(frozen=True, kw_only=True, slots=True)
class TFTConfig(TorchModelConfig):
    """Variable selection, LSTM and interpretable attention, joined by gated residual networks.

    All features are observed inputs. What is known ahead is time alone, 0 at the window's first bar and 1 after its last; there
    are no static covariates. The decoder has one step, whose row the heads read.

    Source: Lim et al. 2021, Int. Journal of Forecasting 37(4), arXiv:1912.09363.
    """

    width: Positive = 16
    """D, features of every variable and row."""
    attention_heads: Positive = 4
    dropout: Share = 0.1

    def __post_init__(self) -> None:
        check_divides(total=self.width, total_name="width", part=self.attention_heads, part_name="attention_heads")

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.tft.model import TFTNetwork

        return TFTNetwork(self, spec)
