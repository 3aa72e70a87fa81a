"""The network of the transformer.

Shapes: N windows, L look-back bars, F features, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.parts.attention import CausalSelfAttention
from quantfleet_models.parts.network import SequenceNetwork
from quantfleet_models.parts.position import LearnedPosition, SinusoidalPosition
from quantfleet_models.transformer.config import TransformerConfig

__all__ = ["TransformerNetwork"]


class TransformerNetwork(SequenceNetwork):
    """A row per bar, its position added, then masked self-attention."""

    def __init__(self, config: TransformerConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.width, dropout=config.dropout)
        L, D = spec.lookback_bars, config.width
        self.embed = nn.Linear(spec.features, D)
        self.position = SinusoidalPosition(L, D) if config.position == "sinusoidal" else LearnedPosition(L, D)
        self.encoder = CausalSelfAttention(
            L,
            D,
            heads=config.attention_heads,
            layers=config.layers,
            dropout=config.dropout,
            feedforward=config.feedforward_width,
        )

    def hidden(self, x_NLF: Tensor) -> Tensor:
        out: Tensor = self.encoder(self.dropout(self.position(self.embed(x_NLF))))
        return out

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.encoder.norm.parameters())
