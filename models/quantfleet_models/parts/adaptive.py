"""Layers that change one row at a time: thinking as long as it takes, evolving along a learned flow, looking up learned rows.

Shapes: N rows, D width, M memory slots.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quantfleet.errors import ConfigError

__all__ = ["AdaptiveDepth", "OdeBlock", "PersistentMemory"]


class AdaptiveDepth(nn.Module):
    """One layer applied again and again until it says that it is done, row by row; the answer is the mean of all states, weighed by
    the probability to halt there.

    Source: Graves 2016, arXiv:1603.08983, eq. 5 to 14; the layer is residual.
    """

    def __init__(self, width: int, *, most_steps: int, epsilon: float = 0.01) -> None:
        super().__init__()
        self.most_steps, self.epsilon = most_steps, epsilon
        self.change = nn.Sequential(nn.Linear(width + 1, width), nn.GELU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)
        self.halt = nn.Linear(width, 1)
        nn.init.ones_(self.halt.bias)  # begins with few steps

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Rows, and the ponder cost of each, (N,): steps taken plus the probability that was left for the last."""
        state_ND, out_ND = x_ND, torch.zeros_like(x_ND)
        spent_N1 = x_ND.new_zeros(len(x_ND), 1)
        running_N1 = torch.ones_like(spent_N1)
        ponder_N1 = torch.zeros_like(spent_N1)
        for step in range(1, self.most_steps + 1):
            first_N1 = torch.full_like(spent_N1, float(step == 1))
            state_ND = self.norm(state_ND + self.change(torch.cat([state_ND, first_N1], dim=-1)))
            halt_N1 = torch.sigmoid(self.halt(state_ND))
            ends = (spent_N1 + halt_N1 >= 1 - self.epsilon) | (step == self.most_steps)
            chance_N1 = torch.where(ends, 1 - spent_N1, halt_N1) * running_N1
            out_ND = out_ND + chance_N1 * state_ND
            ponder_N1 = ponder_N1 + running_N1 * (1 + torch.where(ends, 1 - spent_N1, 0.0))
            spent_N1 = spent_N1 + chance_N1
            running_N1 = running_N1 * (~ends).to(running_N1.dtype)
        return out_ND, ponder_N1[:, 0]


class OdeBlock(nn.Module):
    """A row goes along dx/dt = f(x, t) from t = 0 to 1, by Runge-Kutta steps of order 4; a residual layer of shared depth.

    Gradients go through the solver's steps, so that they are those of what was computed.

    Source: Chen et al. 2018, arXiv:1806.07366.

    Raises: ConfigError: the package torchdiffeq is not installed.
    """

    def __init__(self, width: int, *, steps: int) -> None:
        super().__init__()
        try:
            import torchdiffeq  # noqa: F401 - said when the network is made, not in the middle of a fit
        except ModuleNotFoundError as error:
            raise ConfigError(
                "ode_steps needs the package torchdiffeq: pip install 'quantfleet[ode]' here and on every worker."
            ) from error
        self.steps = steps
        self.inner = nn.Linear(width + 1, width)
        self.outer = nn.Linear(width, width)

    def flow(self, time: Tensor, x_ND: Tensor) -> Tensor:
        """dx/dt."""
        time_N1 = time.to(x_ND.dtype).expand(len(x_ND), 1)
        change: Tensor = self.outer(torch.tanh(self.inner(torch.cat([x_ND, time_N1], dim=-1))))
        return change.to(x_ND.dtype)

    def forward(self, x_ND: Tensor) -> Tensor:
        from torchdiffeq import odeint

        ends = torch.tensor([0.0, 1.0], device=x_ND.device, dtype=x_ND.dtype)
        out: Tensor = odeint(self.flow, x_ND, ends, method="rk4", options={"step_size": 1.0 / self.steps})[-1]
        return out


class PersistentMemory(nn.Module):
    """A row reads learned rows that belong to no window, by attention: what was seen in training and is worth looking up.

    Source: Sukhbaatar et al. 2019, arXiv:1907.01470, as a layer of its own.
    """

    def __init__(self, width: int, *, slots: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_MD = nn.Parameter(torch.randn(slots, width) / math.sqrt(width))
        self.value_MD = nn.Parameter(torch.randn(slots, width) / math.sqrt(slots))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_ND: Tensor) -> Tensor:
        score_NM = self.query(self.norm(x_ND)) @ self.key_MD.T / math.sqrt(x_ND.shape[-1])
        out: Tensor = x_ND + self.dropout(torch.softmax(score_NM, dim=-1) @ self.value_MD)
        return out
