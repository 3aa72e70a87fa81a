"""The network of the small hybrid.

Shapes: N windows, L look-back bars, F features, D width, H horizons, Q quantile levels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.hybrid.config import HybridConfig
from quantfleet_models.parts.convolution import CausalConv

__all__ = ["HybridNetwork"]


class HybridNetwork(nn.Module):
    """Standardised features to heads; every hidden row t depends on rows 0..t only."""

    mask_LL: Tensor

    def __init__(self, config: HybridConfig, spec: DataSpec) -> None:
        super().__init__()
        D, L, H = config.width, spec.lookback_bars, len(spec.horizons_bars)
        self.embed = nn.Linear(spec.features, D)
        self.conv = CausalConv(D, D, config.kernel_bars)
        self.conv_norm = nn.LayerNorm(D)
        self.lstm = nn.LSTM(D, D, batch_first=True)
        self.position_LD = nn.Parameter(torch.randn(L, D) * 0.02)
        self.transformer = nn.ModuleList(
            nn.TransformerEncoderLayer(
                D, config.attention_heads, 2 * D, config.dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.attention_layers)
        )
        self.gate = nn.Linear(2 * D, D)
        self.norm = nn.LayerNorm(D)
        self.dropout = nn.Dropout(config.dropout)
        self.heads = nn.ModuleDict({name: nn.Linear(D, H) for name in ("return", "direction", "volatility")})
        self.levels = len(config.loss.quantiles)
        if self.levels:
            self.heads["quantiles"] = nn.Linear(D, H * self.levels)
        self.register_buffer("mask_LL", nn.Transformer.generate_square_subsequent_mask(L), persistent=False)

    def hidden(self, x_NLF: Tensor) -> Tensor:
        """Hidden rows (N, L, D), causal along L."""
        embedded = self.embed(x_NLF)
        local = self.conv_norm(embedded + nn.functional.gelu(self.conv(embedded)))
        recurrent, _ = self.lstm(local)
        attended = local + self.position_LD
        for layer in self.transformer:
            attended = layer(attended, src_mask=self.mask_LL, is_causal=True)
        gate = torch.sigmoid(self.gate(torch.cat([recurrent, attended], dim=-1)))
        out: Tensor = self.norm(gate * recurrent + (1 - gate) * attended)
        return out

    def forward(self, x_NLF: Tensor) -> dict[str, Tensor]:
        last_ND = self.dropout(self.hidden(x_NLF)[:, -1])
        heads = {name: head(last_ND) for name, head in self.heads.items()}
        if self.levels:
            heads["quantiles"] = heads["quantiles"].unflatten(1, (-1, self.levels))
        return heads

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        """What the heads read is made by these: the gate between the two paths and the norm after it."""
        return (*self.gate.parameters(), *self.norm.parameters())
