"""The network of the xLSTM-Transformer.

Shapes: N windows, L look-back bars, F features, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.parts.fusion import CrossFusion
from quantfleet_models.parts.network import SequenceNetwork
from quantfleet_models.parts.rolling_attention import AttentionLayer
from quantfleet_models.xlstm.model import XLSTMStack
from quantfleet_models.xlstm_transformer.config import XLSTMTransformerConfig

__all__ = ["XLSTMTransformerNetwork"]


class XLSTMTransformerNetwork(SequenceNetwork):
    """Two causal paths over the same embedded bars, then their fusion; the position held, if it is read, comes last."""

    others_G: Tensor

    def __init__(self, config: XLSTMTransformerConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.width, dropout=config.dropout)
        D, L = config.width, spec.lookback_bars
        columns, name = spec.feature_columns, config.position_feature
        self.position_at = None if name is None else columns.index(name)
        others = [place for place in range(len(columns)) if place != self.position_at]
        self.register_buffer("others_G", torch.tensor(others), persistent=False)
        self.embed = nn.Linear(len(others), D)
        self.stack = XLSTMStack(config)
        self.transformer = nn.ModuleList(
            AttentionLayer(
                D, config.attention_heads, reach_bars=L, rotary=config.positions == "rotary", dropout=config.dropout
            )
            for _ in range(config.attention_layers)
        )
        self.attended_norm = nn.LayerNorm(D)
        self.fusion = CrossFusion(
            D, config.attention_heads, reach_bars=L, rotary=config.positions == "rotary", dropout=config.dropout
        )
        if self.position_at is not None:
            self.held = nn.Sequential(nn.Linear(1, D), nn.GELU(), nn.Linear(D, 2 * D))

    def hidden(self, x_NLF: Tensor) -> Tensor:
        embedded = self.embed(x_NLF if self.position_at is None else x_NLF.index_select(2, self.others_G))
        attended = embedded
        for layer in self.transformer:
            attended, _ = layer(attended)
        fused_NLD: Tensor = self.fusion(self.stack(embedded), self.attended_norm(attended))
        if self.position_at is None:
            return fused_NLD
        held_NL1 = x_NLF[..., self.position_at : self.position_at + 1]
        scale, shift = self.held(held_NL1).chunk(2, dim=-1)
        out: Tensor = fused_NLD * (1 + scale) + shift
        return out

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        """The fusion's gate and norm; behind them comes what reads the position held, if it is read."""
        return (*self.fusion.shared_parameters(), *(() if self.position_at is None else self.held[-1].parameters()))
