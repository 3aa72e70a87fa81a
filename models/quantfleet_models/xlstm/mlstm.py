"""mLSTM: a memory that is a matrix, written by outer products of keys and values; no hidden row feeds the next one's gates, so
all bars of a window are computed at once.

Shapes: N windows, L bars, D width, I inner features, Z heads, E features of a head (I = Z E).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quantfleet_models.parts.rolling_attention import in_parts
from quantfleet_models.xlstm.layers import (
    CausalDepthwise,
    HeadNorm,
    HeadwiseLinear,
    at_least_single,
    row_norm,
    small_init,
)

__all__ = ["MLSTMBlock", "MLSTMState", "mlstm_parallel", "mlstm_step"]

_EPSILON = 1e-6
_LEAST_PEAK = -60.0
"""exp(60) still is a number in single precision; what is written with less weight than exp(-60) counts as nothing either way."""

MLSTMState = tuple[Tensor, Tensor, Tensor, Tensor]
"""Memory C (N, Z, E, E), normaliser n (N, Z, E), stabiliser m (N, Z), rows under the convolution (N, K-1, I)."""


def mlstm_parallel(
    query_NZLE: Tensor, key_NZLE: Tensor, value_NZLE: Tensor, input_NZL: Tensor, forget_NZL: Tensor
) -> Tensor:
    """What all bars read out of the memory, (N, Z, L, E), in the form that needs no loop.

    Args:
        input_NZL, forget_NZL: gates before their functions (exp, sigmoid).
    Source: Beck et al. 2024, arXiv:2405.04517, appendix A.3, eq. 71 to 76, with the row maximum taken out of the exponents.
    """
    L = query_NZLE.shape[2]
    decay_NZL = nn.functional.logsigmoid(at_least_single(forget_NZL)).cumsum(-1)
    log_weight = decay_NZL[..., :, None] - decay_NZL[..., None, :] + at_least_single(input_NZL)[..., None, :]
    later_LL = torch.ones(L, L, dtype=torch.bool, device=query_NZLE.device).triu(1)
    log_weight = log_weight.masked_fill(later_LL, -torch.inf)
    peak_NZL1 = log_weight.amax(-1, keepdim=True)
    score = query_NZLE @ key_NZLE.transpose(-1, -2) / math.sqrt(query_NZLE.shape[-1])
    score = score * torch.exp(log_weight - peak_NZL1)
    return (score @ value_NZLE) / _normaliser(score.sum(-1, keepdim=True), peak_NZL1)


def mlstm_step(
    query_NZE: Tensor, key_NZE: Tensor, value_NZE: Tensor, input_NZ: Tensor, forget_NZ: Tensor, memory: MLSTMState
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """What one bar reads, (N, Z, E), and the memory after it. Equal to the bar's row of `mlstm_parallel`.

    Source: as above, eq. 19 to 27, stabilised as in appendix A.3.
    """
    C, n, m, _ = memory
    log_forget = nn.functional.logsigmoid(at_least_single(forget_NZ))
    peak = torch.maximum(log_forget + m, at_least_single(input_NZ))
    keep, write = torch.exp(log_forget + m - peak), torch.exp(input_NZ - peak)
    key = key_NZE / math.sqrt(key_NZE.shape[-1])
    C = keep[..., None, None] * C + write[..., None, None] * key[..., :, None] * value_NZE[..., None, :]
    n = keep[..., None] * n + write[..., None] * key
    read = torch.einsum("nze,nzef->nzf", query_NZE, C)
    return read / _normaliser((query_NZE * n).sum(-1, keepdim=True), peak[..., None]), (C, n, peak)


def _normaliser(total: Tensor, peak: Tensor) -> Tensor:
    return torch.maximum(total.abs(), torch.exp(-peak.clamp_min(_LEAST_PEAK))) + _EPSILON


class MLSTMBlock(nn.Module):
    """Residual block around an mLSTM, projected up before it and down after it.

    Source: Beck et al. 2024, arXiv:2405.04517, figure 11.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        inner: int,
        kernel_bars: int,
        block_features: int,
        blocks: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm = row_norm(width)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.conv = CausalDepthwise(inner, kernel_bars)
        self.query, self.key, self.value = (
            HeadwiseLinear(inner, inner // block_features, init_features=width) for _ in range(3)
        )
        self.input_gate = nn.Linear(3 * inner, heads)
        self.forget_gate = nn.Linear(3 * inner, heads)
        self.head_norm = HeadNorm(inner, heads)
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        small_init(self.up.weight, width)
        nn.init.normal_(self.down.weight, std=2 / blocks / math.sqrt(width))
        nn.init.zeros_(self.input_gate.weight)
        nn.init.normal_(self.input_gate.bias, std=0.1)
        nn.init.zeros_(self.forget_gate.weight)
        with torch.no_grad():  # heads from short to long memory
            self.forget_gate.bias.copy_(torch.linspace(3.0, 6.0, heads))

    def forward(self, x_NLD: Tensor) -> Tensor:
        inner_NLI, gate_NLI = self.up(self.norm(x_NLD)).chunk(2, dim=-1)
        local_NLI = nn.functional.silu(self.conv(inner_NLI))
        q, k, v = self.query(local_NLI), self.key(local_NLI), self.value(inner_NLI)
        all_three = torch.cat([q, k, v], dim=-1)
        write, forget = self.input_gate(all_three).transpose(1, 2), self.forget_gate(all_three).transpose(1, 2)
        q, k, v = (in_parts(part, self.heads).transpose(1, 2) for part in (q, k, v))
        read_NLI = mlstm_parallel(q, k, v, write, forget).transpose(1, 2).flatten(-2)
        return x_NLD + self._out(read_NLI, local_NLI, gate_NLI)

    def begin(self, like_ND: Tensor) -> MLSTMState:
        """State before the first bar of a stream."""
        inner = self.skip.numel()
        size = inner // self.heads
        C = like_ND.new_zeros(len(like_ND), self.heads, size, size)
        return C, C[..., 0], C[..., 0, 0], self.conv.begin(like_ND.new_zeros(len(like_ND), inner))

    def step(self, x_ND: Tensor, state: MLSTMState) -> tuple[Tensor, MLSTMState]:
        """One bar, equal to its row of `forward` over all bars of the stream."""
        inner_NI, gate_NI = self.up(self.norm(x_ND)).chunk(2, dim=-1)
        local_NI, past = self.conv.step(inner_NI, state[3])
        local_NI = nn.functional.silu(local_NI)
        q, k, v = self.query(local_NI), self.key(local_NI), self.value(inner_NI)
        all_three = torch.cat([q, k, v], dim=-1)
        q, k, v = (in_parts(part, self.heads) for part in (q, k, v))
        read, memory = mlstm_step(q, k, v, self.input_gate(all_three), self.forget_gate(all_three), state)
        return x_ND + self._out(read.flatten(-2), local_NI, gate_NI), (*memory, past)

    def _out(self, read: Tensor, local: Tensor, gate: Tensor) -> Tensor:
        out = (self.head_norm(read) + self.skip * local) * nn.functional.silu(gate)
        made: Tensor = self.dropout(self.down(out))
        return made
