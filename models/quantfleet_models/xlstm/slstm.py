"""sLSTM: an LSTM with an exponential input gate; hidden rows feed the next bar's gates within a head, so bars go one by one.

Shapes: N windows, L bars, D width, Z heads, E features of a head (D = Z E), 4 gates: input, forget, cell input, output.
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

__all__ = ["SLSTMBlock", "SLSTMCell", "SLSTMState"]

SLSTMState = tuple[Tensor, Tensor, Tensor, Tensor]
"""Hidden row h, cell c, normaliser n and stabiliser m, each (N, Z, E)."""

_NO_MEMORY = -1e4
"""Stabiliser before the first bar: exp(-1e4) is 0 in every precision, so the first bar's input gate is 1 whatever it is."""


class SLSTMCell(nn.Module):
    """The recurrence. Source: Beck et al. 2024, arXiv:2405.04517, eq. 8 to 18, with the sigmoid forget gate."""

    def __init__(self, width: int, heads: int, *, place: float) -> None:
        """Args: place: of the block in the stack, 0 first to 1 last; deeper ones begin with other memories."""
        super().__init__()
        size = width // heads
        self.recurrent = nn.Parameter(torch.zeros(heads, size, 4 * size))
        self.bias = nn.Parameter(torch.zeros(4, heads, size))
        with torch.no_grad():
            rise_E = torch.arange(size) / max(size - 1, 1)
            self.bias[1] = 5.0 - 12.0 * rise_E ** (0.3 + 1.3 * place)

    def begin(self, like_ND: Tensor) -> SLSTMState:
        zeros = like_ND.new_zeros(len(like_ND), *self.bias.shape[1:])
        return zeros, zeros, zeros, torch.full_like(zeros, _NO_MEMORY)

    def step(self, gates_N4ZE: Tensor, state: SLSTMState) -> SLSTMState:
        """One bar; the new hidden row comes first."""
        hidden, cell, total, peak = state
        fed = in_parts(torch.einsum("nze,zeg->nzg", hidden, self.recurrent), 4).transpose(1, 2)
        write, forget, new, out = (gates_N4ZE + fed + self.bias).unbind(1)
        kept = nn.functional.logsigmoid(forget) + peak
        peak = torch.maximum(kept, write).detach()  # cancels out, so its gradient is 0
        keep, take = torch.exp(kept - peak), torch.exp(write - peak)
        cell = keep * cell + take * torch.tanh(new)
        total = keep * total + take
        return torch.sigmoid(out) * cell / total, cell, total, peak

    def forward(self, gates_NL4ZE: Tensor) -> Tensor:
        """Hidden rows of all bars, (N, L, D)."""
        gates = at_least_single(gates_NL4ZE)
        state = self.begin(gates[:, 0, 0].flatten(1))
        rows = []
        for bar in gates.unbind(1):
            state = self.step(bar, state)
            rows.append(state[0])
        return torch.stack(rows, dim=1).flatten(-2)


class SLSTMBlock(nn.Module):
    """Residual block around an sLSTM, then one around a gated feed-forward layer.

    Source: Beck et al. 2024, arXiv:2405.04517, figure 10.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        inner: int,
        kernel_bars: int,
        place: int,
        blocks: int,
        dropout: float,
    ) -> None:
        """Args: inner: features inside the feed-forward layer."""
        super().__init__()
        self.heads = heads
        self.norm = row_norm(width)
        self.conv = CausalDepthwise(width, kernel_bars)
        self.gates = nn.ModuleDict(
            {name: HeadwiseLinear(width, heads) for name in ("input", "forget", "new", "output")}
        )
        self.cell = SLSTMCell(width, heads, place=place / max(blocks - 1, 1))
        self.head_norm = HeadNorm(width, heads)
        self.feed_norm = row_norm(width)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        small_init(self.up.weight, width)
        nn.init.normal_(self.down.weight, std=2 / blocks / math.sqrt(width))

    def forward(self, x_NLD: Tensor) -> Tensor:
        normed = self.norm(x_NLD)
        gates = self._gates(normed, nn.functional.silu(self.conv(normed)))
        return self._out(x_NLD, self.cell(gates))

    def begin(self, like_ND: Tensor) -> tuple[SLSTMState, Tensor]:
        """State before the first bar of a stream, and the rows under the convolution."""
        return self.cell.begin(like_ND), self.conv.begin(like_ND)

    def step(self, x_ND: Tensor, state: tuple[SLSTMState, Tensor]) -> tuple[Tensor, tuple[SLSTMState, Tensor]]:
        """One bar, equal to its row of `forward` over all bars of the stream."""
        normed = self.norm(x_ND)
        local, past = self.conv.step(normed, state[1])
        memory = self.cell.step(self._gates(normed, nn.functional.silu(local)), state[0])
        return self._out(x_ND, memory[0].flatten(-2)), (memory, past)

    def _gates(self, row: Tensor, local: Tensor) -> Tensor:
        """(..., 4, Z, E): input and forget gates read the convolution, the others the row itself."""
        fed = {"input": local, "forget": local, "new": row, "output": row}
        return torch.stack([in_parts(gate(fed[name]), self.heads) for name, gate in self.gates.items()], -3)

    def _out(self, x: Tensor, hidden: Tensor) -> Tensor:
        x = x + self.head_norm(self.dropout(hidden))
        gate, value = self.up(self.feed_norm(x)).chunk(2, dim=-1)
        out: Tensor = x + self.dropout(self.down(nn.functional.gelu(gate) * value))
        return out
