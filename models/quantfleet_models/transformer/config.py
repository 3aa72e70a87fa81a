"""Settings of the transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_divides

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TransformerConfig"]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


@register_model("transformer")
@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerConfig(TorchModelConfig):
    """Transformer encoder over bars under a causal mask.

    Source: Vaswani et al. 2017, arXiv:1706.03762; norm before each part: Xiong et al. 2020, arXiv:2002.04745.
    """

    width: Positive = 32
    """D, features of every row."""
    attention_heads: Positive = 4
    layers: Positive = 2
    feedforward_width: Positive = 64
    dropout: Share = 0.1
    position: Literal["sinusoidal", "learned"] = "sinusoidal"

    def __post_init__(self) -> None:
        check_divides(total=self.width, total_name="width", part=self.attention_heads, part_name="attention_heads")

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.transformer.model import TransformerNetwork

        return TransformerNetwork(self, spec)
