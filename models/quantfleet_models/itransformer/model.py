"""The network of iTransformer.

Shapes: N windows, L look-back bars, S steps, F channels, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.itransformer.config import ITransformerConfig
from quantfleet_models.parts.network import ChannelNetwork
from quantfleet_models.parts.normalise import WindowNorm

__all__ = ["ITransformerCore", "ITransformerNetwork"]


class ITransformerCore(nn.Module):
    """iTransformer as published, without calendar tokens: one token per channel, post-norm encoder, linear projection.

    Source: Liu et al. 2024, arXiv:2310.06625, section 3.
    """

    def __init__(
        self,
        *,
        lookback_bars: int,
        steps: int,
        channels: int,
        width: int = 512,
        attention_heads: int = 8,
        layers: int = 2,
        feedforward_width: int = 2048,
        dropout: float = 0.1,
        window_norm: bool = True,
    ) -> None:
        super().__init__()
        self.window_norm = WindowNorm(channels) if window_norm else None
        self.embed = nn.Linear(lookback_bars, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, attention_heads, feedforward_width, dropout, activation="gelu", batch_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, steps)

    def forward(self, x_NLF: Tensor) -> Tensor:
        """(N, L, F) to the next S values of every channel, (N, S, F)."""
        moments: tuple[Tensor, Tensor] | None = None
        if self.window_norm is not None:
            x_NLF, *kept = self.window_norm(x_NLF)
            moments = (kept[0], kept[1])
        token_NFD = self.dropout(self.embed(x_NLF.transpose(1, 2)))
        for layer in self.layers:
            token_NFD = layer(token_NFD)
        forecast_NSF: Tensor = self.project(self.norm(token_NFD)).transpose(1, 2)
        if self.window_norm is not None and moments is not None:
            forecast_NSF = self.window_norm.undo(forecast_NSF, *moments)
        return forecast_NSF


class ITransformerNetwork(ChannelNetwork):
    """iTransformer and heads."""

    def __init__(self, config: ITransformerConfig, spec: DataSpec) -> None:
        core = ITransformerCore(
            lookback_bars=spec.lookback_bars,
            steps=config.steps,
            channels=spec.features,
            width=config.width,
            attention_heads=config.attention_heads,
            layers=config.layers,
            feedforward_width=config.feedforward_width,
            dropout=config.dropout,
            window_norm=config.window_norm,
        )
        super().__init__(spec, config.loss, core=core, last=(core.project,), steps=config.steps)
