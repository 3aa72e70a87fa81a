"""The network of PatchTST.

Shapes: N windows, L look-back bars, S steps, F channels, M = N x F series, P patches, A attention heads, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.parts.network import ChannelNetwork
from quantfleet_models.parts.normalise import WindowNorm
from quantfleet_models.patch_tst.config import PatchTSTConfig

__all__ = ["PatchLayer", "PatchTSTCore", "PatchTSTNetwork"]


class _Norm(nn.Module):
    """Batch or layer norm over the features of (M, P, D)."""

    def __init__(self, kind: Literal["batch", "layer"], width: int) -> None:
        super().__init__()
        self.inner = nn.BatchNorm1d(width) if kind == "batch" else nn.LayerNorm(width)

    def forward(self, x_MPD: Tensor) -> Tensor:
        if isinstance(self.inner, nn.BatchNorm1d):
            out: Tensor = self.inner(x_MPD.transpose(1, 2)).transpose(1, 2)
        else:
            out = self.inner(x_MPD)
        return out


class PatchLayer(nn.Module):
    """One encoder layer, norm after each part; adds the scores of the layer before to its own where they are given.

    Source: Nie et al. 2023, arXiv:2211.14730, section 3.1; scores handed on: He et al. 2021, arXiv:2012.11747.
    """

    def __init__(
        self, width: int, *, heads: int, feedforward: int, dropout: float, norm: Literal["batch", "layer"]
    ) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm_attention, self.norm_feedforward = _Norm(norm, width), _Norm(norm, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.GELU(), nn.Dropout(dropout), nn.Linear(feedforward, width)
        )
        self.dropout = nn.Dropout(dropout)
        # the authors' code drops after the projection and again before the sum; that is dropping once, with this probability
        self.dropout_twice = nn.Dropout(1 - (1 - dropout) ** 2)

    def forward(self, x_MPD: Tensor, scores_MAPP: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns: the rows (M, P, D), and the attention scores before the softmax."""
        q, k, v = (
            part(x_MPD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        q, k_turned = q * q.shape[-1] ** -0.5, k.transpose(-1, -2)
        if scores_MAPP is None:
            scores = q @ k_turned
        else:  # product and sum in one pass: scores are the largest tensor here by far
            given = scores_MAPP.flatten(0, 1)
            scores = torch.baddbmm(given, q.flatten(0, 1), k_turned.flatten(0, 1)).view_as(scores_MAPP)
        attended = (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(-2)
        x_MPD = self.norm_attention(x_MPD + self.dropout_twice(self.out(attended)))
        return self.norm_feedforward(x_MPD + self.dropout(self.feedforward(x_MPD))), scores


class PatchTSTCore(nn.Module):
    """Supervised PatchTST as published: every channel alone, weights shared, patches as tokens, a flat linear head.

    Source: Nie et al. 2023, arXiv:2211.14730.
    """

    def __init__(
        self,
        *,
        lookback_bars: int,
        steps: int,
        channels: int,
        patch_bars: int = 16,
        stride_bars: int = 8,
        width: int = 128,
        attention_heads: int = 16,
        layers: int = 3,
        feedforward_width: int = 256,
        dropout: float = 0.2,
        residual_attention: bool = True,
        norm: Literal["batch", "layer"] = "batch",
        window_norm: bool = True,
        window_norm_affine: bool = True,
    ) -> None:
        super().__init__()
        self.patch_bars, self.stride_bars = patch_bars, stride_bars
        self.residual_attention = residual_attention
        patches = (lookback_bars - patch_bars) // stride_bars + 2
        self.window_norm = WindowNorm(channels, affine=window_norm_affine) if window_norm else None
        self.embed = nn.Linear(patch_bars, width)
        self.position_PD = nn.Parameter(torch.empty(patches, width).uniform_(-0.02, 0.02))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            PatchLayer(width, heads=attention_heads, feedforward=feedforward_width, dropout=dropout, norm=norm)
            for _ in range(layers)
        )
        self.head = nn.Linear(width * patches, steps)

    def forward(self, x_NLF: Tensor) -> Tensor:
        """(N, L, F) to the next S values of every channel, (N, S, F)."""
        moments: tuple[Tensor, Tensor] | None = None
        if self.window_norm is not None:
            x_NLF, *kept = self.window_norm(x_NLF)
            moments = (kept[0], kept[1])
        padded = nn.functional.pad(x_NLF.transpose(1, 2), (0, self.stride_bars), mode="replicate")
        patch_MPB = padded.unfold(-1, self.patch_bars, self.stride_bars).flatten(0, 1)
        row_MPD = self.dropout(self.embed(patch_MPB) + self.position_PD)
        scores: Tensor | None = None
        for layer in self.layers:
            row_MPD, made = layer(row_MPD, scores)
            scores = made if self.residual_attention else None
        # (D, P) order before flattening, as in the authors' code
        flat = row_MPD.transpose(1, 2).flatten(1).unflatten(0, (len(x_NLF), -1))
        forecast_NSF: Tensor = self.head(flat).transpose(1, 2)
        if self.window_norm is not None and moments is not None:
            forecast_NSF = self.window_norm.undo(forecast_NSF, *moments)
        return forecast_NSF


class PatchTSTNetwork(ChannelNetwork):
    """PatchTST and heads."""

    def __init__(self, config: PatchTSTConfig, spec: DataSpec) -> None:
        core = PatchTSTCore(
            lookback_bars=spec.lookback_bars,
            steps=config.steps,
            channels=spec.features,
            patch_bars=config.patch_bars,
            stride_bars=config.stride_bars,
            width=config.width,
            attention_heads=config.attention_heads,
            layers=config.layers,
            feedforward_width=config.feedforward_width,
            dropout=config.dropout,
            residual_attention=config.residual_attention,
            norm=config.norm,
            window_norm=config.window_norm,
            window_norm_affine=config.window_norm_affine,
        )
        super().__init__(spec, config.loss, core=core, last=(core.head,), steps=config.steps)
