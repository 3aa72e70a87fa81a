"""The multimodal network.

Shapes: N windows, L look-back bars, F features, S streams, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.multimodal.config import MultimodalConfig
from quantfleet_models.parts.network import SequenceNetwork
from quantfleet_models.parts.rolling_attention import AttentionLayer, dense_feed_forward, in_parts

__all__ = ["MultimodalNetwork", "StreamAttention"]


class StreamAttention(nn.Module):
    """The streams of one bar read each other, as a pre-norm Transformer layer without places."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, dropout
        self.norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = dense_feed_forward(width, 2 * width, dropout)

    def forward(self, x_NLSD: Tensor) -> Tensor:
        split = (
            in_parts(part, self.heads).transpose(2, 3) for part in self.query_key_value(self.norm(x_NLSD)).chunk(3, -1)
        )
        query, key, value = split
        drop = self.drop if self.training else 0.0
        read = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=drop)
        x_NLSD = x_NLSD + self.dropout(self.out(read.transpose(2, 3).flatten(3)))
        out: Tensor = x_NLSD + self.feed_forward(self.feed_norm(x_NLSD))
        return out


class MultimodalNetwork(SequenceNetwork):
    """Streams, then bars. With one stream there is nothing to attend to between streams, and that part does not exist.

    A stream is missing from a window whose features of it are all 0 in every bar: that is what undefined features become.
    Whether it is there is asked of the bars up to each one, so that hidden rows stay causal.
    """

    def __init__(self, config: MultimodalConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.width, dropout=config.dropout)
        D = config.width
        places = config.streams(spec.feature_columns)
        self.drop_stream = config.drop_stream
        self.stream_names = tuple(places)
        for name, own in places.items():
            self.register_buffer(f"places_{name}", torch.tensor(own), persistent=False)
        self.embed = nn.ModuleDict({name: nn.Linear(len(own), D) for name, own in places.items()})
        self.kind_SD = nn.Parameter(torch.randn(len(places), D) * 0.02)
        self.between = StreamAttention(D, config.attention_heads, config.dropout) if len(places) > 1 else None
        self.missing_SD = nn.Parameter(torch.randn(len(places), D) * 0.02) if len(places) > 1 else None
        self.weigh = nn.Linear(D, 1) if len(places) > 1 else None
        self.transformer = nn.ModuleList(
            AttentionLayer(
                D, config.attention_heads, reach_bars=spec.lookback_bars, rotary=True, dropout=config.dropout
            )
            for _ in range(config.attention_layers)
        )
        self.norm = nn.LayerNorm(D)

    def hidden(self, x_NLF: Tensor) -> Tensor:
        rows = []
        present = []
        for name in self.stream_names:
            own_NLG = x_NLF.index_select(2, getattr(self, f"places_{name}"))
            rows.append(self.embed[name](own_NLG))
            present.append((own_NLG != 0).any(-1).cummax(1).values)
        x_NLSD = torch.stack(rows, dim=2) + self.kind_SD
        fused_NLD = self._fuse(x_NLSD, torch.stack(present, dim=2))
        for layer in self.transformer:
            fused_NLD, _ = layer(fused_NLD)
        out: Tensor = self.norm(fused_NLD)
        return out

    def _fuse(self, x_NLSD: Tensor, present_NLS: Tensor) -> Tensor:
        if self.between is None or self.missing_SD is None or self.weigh is None:
            return x_NLSD[:, :, 0]
        if self.training and self.drop_stream:
            dropped_NS = torch.rand(len(x_NLSD), x_NLSD.shape[2], device=x_NLSD.device)
            stays = dropped_NS.argmax(1, keepdim=True)  # the one that comes nearest to staying
            keep_NS = (dropped_NS >= self.drop_stream).scatter(1, stays, True)
            present_NLS = present_NLS & keep_NS[:, None]
        x_NLSD = torch.where(present_NLS[..., None], x_NLSD, self.missing_SD + self.kind_SD)
        x_NLSD = self.between(x_NLSD)
        weight_NLS1 = torch.softmax(self.weigh(x_NLSD) / math.sqrt(x_NLSD.shape[-1]), dim=2)
        return (weight_NLS1 * x_NLSD).sum(2)

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.norm.parameters())
