"""The network of the hybrid.

Shapes: N windows, L look-back bars, F features, D width, X experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet.errors import ConfigError
from quantfleet_models.hybrid.config import HybridConfig
from quantfleet_models.parts.adaptive import AdaptiveDepth, OdeBlock, PersistentMemory
from quantfleet_models.parts.convolution import CausalConv
from quantfleet_models.parts.experts import ExpertFeedForward, balance_loss
from quantfleet_models.parts.fusion import CrossFusion, GatedFusion
from quantfleet_models.parts.network import SequenceNetwork
from quantfleet_models.parts.position import LearnedPosition
from quantfleet_models.parts.rolling_attention import AttentionLayer, dense_feed_forward
from quantfleet_models.parts.scales import ScaleResiduals

__all__ = ["HybridNetwork"]


class HybridNetwork(SequenceNetwork):
    """Standardised features to heads; every hidden row t depends on rows 0..t only.

    Every parameter there is takes part in every step: what is switched off does not exist.
    """

    def __init__(self, config: HybridConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.width, dropout=config.dropout)
        self.config = config
        D, L, heads = config.width, spec.lookback_bars, config.attention_heads
        rolling: dict[str, Any] = {
            "reach_bars": L, "rotary": config.positions == "rotary", "dropout": config.dropout,
        }  # fmt: skip
        self.embed = nn.Linear(spec.features, D)
        self.conv = CausalConv(D, D, config.kernel_bars)
        self.conv_norm = nn.LayerNorm(D)
        self.lstm = nn.LSTM(D, D, config.recurrent_layers, batch_first=True)
        self.position = LearnedPosition(L, D) if config.positions == "learned" else None
        self.transformer = nn.ModuleList(
            AttentionLayer(D, heads, feed_forward=self._feed_forward(), **rolling)
            for _ in range(config.attention_layers)
        )
        self.fusion = CrossFusion(D, heads, **rolling) if config.fusion == "cross_attention" else GatedFusion(D)
        self.scales = ScaleResiduals(D, config.scales_bars) if config.scales_bars else None
        self.memory = (
            PersistentMemory(D, slots=config.memory_slots, dropout=config.dropout) if config.memory_slots else None
        )
        self.ode = OdeBlock(D, steps=config.ode_steps) if config.ode_steps else None
        self.adaptive = AdaptiveDepth(D, most_steps=config.adaptive_steps) if config.adaptive_steps else None
        if config.position_head:
            self.heads["position"] = nn.Sequential(nn.Linear(D, 1), nn.Tanh())

    def _feed_forward(self) -> nn.Module:
        config = self.config
        inner = config.feed_forward_factor * config.width
        if not config.experts:
            return dense_feed_forward(config.width, inner, config.dropout)
        return ExpertFeedForward(
            config.width, inner, experts=config.experts, chosen=config.experts_chosen, dropout=config.dropout
        )

    def hidden(self, x_NLF: Tensor) -> Tensor:
        return self._rows(x_NLF)[0]

    def _rows(self, x_NLF: Tensor, *, last: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Hidden rows (N, L, D), causal along L, and what each router says.

        With `last` the last row alone, (N, 1, D): from the last attention layer on nothing else is computed, since nothing else is
        read. A router of that layer then sees the last rows only.
        """
        embedded = self.embed(x_NLF)
        local = self.conv_norm(embedded + nn.functional.gelu(self.conv(embedded)))
        recurrent, _ = self.lstm(local)
        attended = local if self.position is None else self.position(local)
        routed = []
        crossed = isinstance(self.fusion, CrossFusion)  # which reads all rows of both paths
        for number, layer in enumerate(self.transformer, start=1):
            attended, says = layer(attended, last=last and not crossed and number == len(self.transformer))
            routed += [] if says is None else [says]
        if not last:
            fused: Tensor = self.fusion(recurrent, attended)
            return fused if self.scales is None else self.scales(fused, local), routed
        one = self.fusion(recurrent, attended, last=True) if crossed else self.fusion(recurrent[:, -1:], attended)
        return one if self.scales is None else self.scales.last(one[:, 0], local)[:, None], routed

    def _refine(self, row_ND: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is done to the one row that the heads read, and the ponder cost of each, (N,)."""
        ponder_N = None
        if self.memory is not None:
            row_ND = self.memory(row_ND)
        if self.ode is not None:
            row_ND = self.ode(row_ND)
        if self.adaptive is not None:
            row_ND, ponder_N = self.adaptive(row_ND)
        return row_ND, ponder_N

    def summary(self, x_NLF: Tensor) -> Tensor:
        return self._refine(self._rows(x_NLF, last=True)[0][:, -1])[0]

    def forward(self, x_NLF: Tensor) -> dict[str, Tensor]:
        self.check_windows(x_NLF)
        rows, routed = self._rows(x_NLF, last=True)
        row_ND, ponder_N = self._refine(rows[:, -1])
        heads: dict[str, Tensor] = self.heads(self.dropout(row_ND))
        if self.training and torch.is_grad_enabled() and (routed or ponder_N is not None):
            balance = [self.config.balance_cost * balance_loss(says) for says in routed]
            ponder = [] if ponder_N is None else [self.config.ponder_cost * ponder_N.mean()]
            heads["auxiliary"] = torch.stack([*balance, *ponder]).sum()
        return heads

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        """The last layer that all heads read: of the last part that there is."""
        for part in (self.adaptive, self.ode, self.memory):
            if isinstance(part, AdaptiveDepth):
                return tuple(part.norm.parameters())
            if isinstance(part, OdeBlock):
                return tuple(part.outer.parameters())
            if isinstance(part, PersistentMemory):
                return (part.value_MD,)
        return self.fusion.shared_parameters()

    def check_streams(self) -> None:
        """Raises: ConfigError: an answer depends on a bar's place in its window, which a stream has not."""
        if self.position is not None:
            raise ConfigError(
                f"{self.config.label}.positions=learned belongs to places of a window, and a stream has none. Fit the model with "
                "positions: rotary (or none), or ask it for whole windows."
            )

    def begin(self, like_NF: Tensor) -> dict[str, Any]:
        like_ND = like_NF.new_zeros(len(like_NF), self.config.width)
        layers = self.lstm.num_layers
        state: dict[str, Any] = {
            "conv": like_ND.new_zeros(len(like_ND), self.conv.left, self.config.width),
            "lstm": (like_ND.new_zeros(layers, *like_ND.shape), like_ND.new_zeros(layers, *like_ND.shape)),
            "attention": [layer.begin(like_ND) for layer in self.transformer],  # type: ignore[operator]
        }
        if isinstance(self.fusion, CrossFusion):
            state["fusion"] = self.fusion.begin(like_ND)
        if self.scales is not None:
            state["scales"] = self.scales.begin(like_ND)
        return state

    def step(self, x_NF: Tensor, state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        embedded = self.embed(x_NF)
        rows_NKD = torch.cat([state["conv"], embedded[:, None]], dim=1)
        made = self.conv.conv(rows_NKD.transpose(1, 2))[..., -1]
        local = self.conv_norm(embedded + nn.functional.gelu(made))
        recurrent, memory = self.lstm(local[:, None], state["lstm"])
        after: dict[str, Any] = {"conv": rows_NKD[:, 1:], "lstm": memory, "attention": []}
        attended = local
        for layer, before in zip(self.transformer, state["attention"], strict=True):
            attended, carried = layer.step(attended, before)  # type: ignore[operator]
            after["attention"].append(carried)
        if isinstance(self.fusion, CrossFusion):
            fused, after["fusion"] = self.fusion.step(recurrent[:, 0], attended, state["fusion"])
        else:
            fused = self.fusion(recurrent[:, 0], attended)
        if self.scales is not None:
            fused, after["scales"] = self.scales.step(fused, local, state["scales"])
        heads: dict[str, Tensor] = self.heads(self._refine(fused)[0])
        return heads, after
