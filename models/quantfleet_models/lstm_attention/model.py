"""The network of the LSTM with attention.

Shapes: N windows, L look-back bars, F features, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.lstm_attention.config import LSTMAttentionConfig
from quantfleet_models.parts.network import SequenceNetwork

__all__ = ["GlobalAttention", "LSTMAttentionNetwork"]


class GlobalAttention(nn.Module):
    """Every row asks the rows up to itself: tanh(W [context; state]), context weighed by softmax(state' A states).

    Source: Luong, Pham and Manning 2015, arXiv:1508.04025, equations 5 to 8, score "general".
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width, bias=False)

    def forward(self, state_NLD: Tensor, *, last_only: bool = False) -> Tensor:
        """(N, L, D) to (N, L, D), row t from rows 0..t; with `last_only` the last row alone, (N, 1, D)."""
        asking = state_NLD[:, -1:] if last_only else state_NLD
        context = nn.functional.scaled_dot_product_attention(
            self.score(asking), state_NLD, state_NLD, is_causal=not last_only, scale=1.0
        )
        return torch.tanh(self.combine(torch.cat([context, asking], -1)))


class LSTMAttentionNetwork(SequenceNetwork):
    """LSTM, then global attention."""

    def __init__(self, config: LSTMAttentionConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.width, dropout=config.dropout)
        between = config.dropout if config.layers > 1 else 0.0
        self.lstm = nn.LSTM(spec.features, config.width, config.layers, batch_first=True, dropout=between)
        self.attention = GlobalAttention(config.width)

    def hidden(self, x_NLF: Tensor) -> Tensor:
        out: Tensor = self.attention(self.lstm(x_NLF)[0])
        return out

    def summary(self, x_NLF: Tensor) -> Tensor:
        out: Tensor = self.attention(self.lstm(x_NLF)[0], last_only=True)
        return out[:, 0]

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.attention.combine.parameters())
