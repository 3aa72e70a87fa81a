"""The network of the Temporal Fusion Transformer, without static covariates.

Shapes: N windows, L look-back bars, S decoder steps, T = L + S rows, V observed variables, K variables known ahead, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.parts.attention import causal_mask
from quantfleet_models.parts.network import WindowNetwork
from quantfleet_models.tft.config import TFTConfig

__all__ = [
    "GatedResidual",
    "InterpretableAttention",
    "TFTCore",
    "TFTNetwork",
    "VariableSelection",
]

_NORM_EPSILON = 1e-3


class _Gate(nn.Module):
    """Gated linear unit (Dauphin et al. 2017, arXiv:1612.08083), by which a part can be switched off."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.glu(self.linear(x))


class GatedResidual(nn.Module):
    """norm(x + gate(linear(elu(linear(x))))). Source: Lim et al. 2021, equations 2 to 4, without static context."""

    def __init__(self, inputs: int, width: int, *, outputs: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        made = outputs or width
        self.first, self.second = nn.Linear(inputs, width), nn.Linear(width, width)
        self.gate = _Gate(width, made)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Linear(inputs, made) if outputs else nn.Identity()
        self.norm = nn.LayerNorm(made, eps=_NORM_EPSILON) if made > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(nn.functional.elu(self.first(x)))
        out: Tensor = self.norm(self.gate(self.dropout(inner)) + self.skip(x))
        return out


class VariableSelection(nn.Module):
    """A weighted sum over variables, the weights made from all of them at once; a single variable has weight 1.

    Source: equations 6 to 8.
    """

    def __init__(self, variables: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.joint = GatedResidual(variables * width, width, outputs=variables) if variables > 1 else None
        self.each = nn.ModuleList(GatedResidual(width, width, dropout=dropout) for _ in range(variables))

    def forward(self, x_NTVD: Tensor) -> tuple[Tensor, Tensor]:
        """Returns: the row (N, T, D), and the weights of the variables (N, T, V), which add up to 1."""
        weight_NTV = torch.ones_like(x_NTVD[..., 0])
        if self.joint is not None:
            weight_NTV = torch.softmax(self.joint(x_NTVD.flatten(-2)), -1)
        made_NTVD = torch.stack([part(x_NTVD[..., v, :]) for v, part in enumerate(self.each)], -2)
        return (weight_NTV[..., None] * made_NTVD).sum(-2), weight_NTV


class InterpretableAttention(nn.Module):
    """Attention whose heads share their values, so that the mean of their weights can be read. Source: equations 13 to 16."""

    mask_TT: Tensor

    def __init__(self, rows: int, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.value = nn.Linear(width, self.size, bias=False)
        self.out = nn.Linear(self.size, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mask_TT", causal_mask(rows), persistent=False)

    def forward(self, x_NTD: Tensor) -> tuple[Tensor, Tensor]:
        """Returns: rows (N, T, D), and the mean weight over heads that row t gives to row s (N, T, T)."""
        q, k = (part(x_NTD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key))
        weight = torch.softmax(q @ k.transpose(-1, -2) * self.size**-0.5 + self.mask_TT, -1).mean(1)
        return self.dropout(self.out(weight @ self.value(x_NTD))), weight


class TFTCore(nn.Module):
    """Temporal Fusion Transformer as published, for data without static covariates.

    Source: Lim et al. 2021, Int. Journal of Forecasting 37(4), arXiv:1912.09363, figure 2.

    Args:
        observed: V, variables known up to now.
        known: K, variables known ahead, too.
    """

    def __init__(
        self,
        *,
        lookback_bars: int,
        steps: int,
        observed: int,
        known: int = 1,
        width: int = 128,
        attention_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        D = width
        self.lookback_bars = lookback_bars
        self.scale_known, self.shift_known = nn.Parameter(torch.empty(known, D)), nn.Parameter(torch.zeros(known, D))
        self.scale_observed = nn.Parameter(torch.empty(observed, D))
        self.shift_observed = nn.Parameter(torch.zeros(observed, D))
        for scale in (self.scale_known, self.scale_observed):
            nn.init.xavier_normal_(scale)
        self.select_past = VariableSelection(known + observed, D, dropout=dropout)
        self.select_future = VariableSelection(known, D, dropout=dropout)
        self.lstm_past, self.lstm_future = (nn.LSTM(D, D, batch_first=True) for _ in range(2))
        self.gate_lstm, self.norm_lstm = _Gate(D, D), nn.LayerNorm(D, eps=_NORM_EPSILON)
        self.enrich = GatedResidual(D, D, dropout=dropout)
        self.attention = InterpretableAttention(lookback_bars + steps, D, heads=attention_heads, dropout=dropout)
        self.gate_attention, self.norm_attention = _Gate(D, D), nn.LayerNorm(D, eps=_NORM_EPSILON)
        self.feedforward = GatedResidual(D, D, dropout=dropout)
        self.gate_out, self.norm_out = _Gate(D, D), nn.LayerNorm(D, eps=_NORM_EPSILON)

    def forward(self, observed_NLV: Tensor, known_NTK: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns: a row for each step ahead (N, S, D), and what can be read: "variables" (N, L, K + V), "attention" (N, T, T)."""
        L = self.lookback_bars
        known_NTKD = known_NTK[..., None] * self.scale_known + self.shift_known
        observed_NLVD = observed_NLV[..., None] * self.scale_observed + self.shift_observed
        past_NLD, weight_NLV = self.select_past(torch.cat([known_NTKD[:, :L], observed_NLVD], 2))
        future_NSD, _ = self.select_future(known_NTKD[:, L:])
        encoded_NLD, state = self.lstm_past(past_NLD)
        decoded_NSD, _ = self.lstm_future(future_NSD, state)
        row_NTD = self.gate_lstm(torch.cat([encoded_NLD, decoded_NSD], 1)) + torch.cat([past_NLD, future_NSD], 1)
        row_NTD = self.norm_lstm(row_NTD)
        rich_NTD = self.enrich(row_NTD)
        attended_NTD, attention_NTT = self.attention(rich_NTD)
        step_NSD = self.norm_attention(self.gate_attention(attended_NTD[:, L:]) + rich_NTD[:, L:])
        step_NSD = self.norm_out(self.gate_out(self.feedforward(step_NSD)) + row_NTD[:, L:])
        return step_NSD, {"variables": weight_NLV, "attention": attention_NTT}


class TFTNetwork(WindowNetwork):
    """TFT with one step ahead, whose row the heads read."""

    time_T1: Tensor

    def __init__(self, config: TFTConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.width, dropout=config.dropout)
        L = spec.lookback_bars
        self.core = TFTCore(
            lookback_bars=L,
            steps=1,
            observed=spec.features,
            width=config.width,
            attention_heads=config.attention_heads,
            dropout=config.dropout,
        )
        self.register_buffer("time_T1", torch.arange(L + 1, dtype=torch.float32)[:, None] / L, persistent=False)

    def _core(self, x_NLF: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        made: tuple[Tensor, dict[str, Tensor]] = self.core(x_NLF, self.time_T1.expand(len(x_NLF), -1, -1))
        return made

    def summary(self, x_NLF: Tensor) -> Tensor:
        return self._core(x_NLF)[0][:, 0]

    def reading(self, x_NLF: Tensor) -> dict[str, Tensor]:
        """How much each variable counted, and each bar: "variables" (N, 1 + F), time first, mean over bars; "bars" (N, L)."""
        made = self._core(x_NLF)[1]
        return {"variables": made["variables"].mean(1), "bars": made["attention"][:, -1, :-1]}

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.core.norm_out.parameters())
