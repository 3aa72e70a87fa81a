"""Settings of iTransformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_divides

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ITransformerConfig"]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


@register_model("itransformer")
@dataclass(frozen=True, kw_only=True, slots=True)
class ITransformerConfig(TorchModelConfig):
    """Transformer whose tokens are whole channels, so that attention mixes channels; labels are read off all channels' output.

    Source: Liu et al. 2024, arXiv:2310.06625. Calendar covariates, which its authors may add as tokens, are left out.
    """

    width: Positive = 32
    """D, features of every channel's token."""
    attention_heads: Positive = 4
    layers: Positive = 2
    feedforward_width: Positive = 64
    dropout: Share = 0.1
    window_norm: bool = True
    """Each channel of each window is normalised by its own moments first; its level comes back at the end."""
    steps: Positive = 4
    """S, numbers per channel that the heads read: what would be steps ahead in a forecast of the channel."""

    def __post_init__(self) -> None:
        check_divides(total=self.width, total_name="width", part=self.attention_heads, part_name="attention_heads")

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.itransformer.model import ITransformerNetwork

        return ITransformerNetwork(self, spec)
