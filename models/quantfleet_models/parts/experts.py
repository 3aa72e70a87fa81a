"""A feed-forward layer of several experts, of which a router asks a few for each row.

Shapes: M rows, D width, I inner features, X experts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quantfleet.training.task_losses import sum_over_workers

__all__ = ["ExpertFeedForward", "balance_loss"]


class ExpertFeedForward(nn.Module):
    """Two-layer experts; each row is answered by the `chosen` experts that the router likes best, by their renormalised weights.

    All experts are computed and those not chosen count 0: at the sizes that are meant here (some experts of some hundred features)
    that costs less than sorting rows, and every parameter takes part in every step, as DistributedDataParallel wants it. So
    experts add capacity, not speed.

    Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 1 to 5 without the noise.
    """

    def __init__(self, width: int, inner: int, *, experts: int, chosen: int, dropout: float) -> None:
        super().__init__()
        self.chosen = chosen
        self.router = nn.Linear(width, experts, bias=False)
        self.up_XDI = nn.Parameter(torch.empty(experts, width, inner))
        self.up_bias_XI = nn.Parameter(torch.zeros(experts, inner))
        self.down_XID = nn.Parameter(torch.empty(experts, inner, width))
        self.down_bias_XD = nn.Parameter(torch.zeros(experts, width))
        self.dropout = nn.Dropout(dropout)
        for weight, inputs in ((self.up_XDI, width), (self.down_XID, inner)):
            nn.init.uniform_(weight, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (..., D), and what `balance_loss` needs: choices and probabilities of each expert, summed over the rows, (2, X)."""
        x_MD = x.flatten(0, -2)
        chance_MX = torch.softmax(self.router(x_MD).float(), dim=-1)
        best, which = chance_MX.topk(self.chosen, dim=-1)
        weight_MX = torch.zeros_like(chance_MX).scatter(-1, which, best / best.sum(-1, keepdim=True))
        inner_XMI = self.dropout(nn.functional.gelu(torch.matmul(x_MD, self.up_XDI) + self.up_bias_XI[:, None]))
        out_XMD = torch.matmul(inner_XMI, self.down_XID) + self.down_bias_XD[:, None]
        out_MD = torch.einsum("mx,xmd->md", weight_MX.to(out_XMD.dtype), out_XMD)
        return self.dropout(out_MD).view_as(x), torch.stack([(weight_MX > 0).float().sum(0), chance_MX.sum(0)])


def balance_loss(routed_2X: Tensor) -> Tensor:
    """X times the sum over experts of (share of choices) x (mean probability): 1 where all are asked alike, more where some are
    asked more often, up to X where one answers all.

    Shares are those of all workers' rows together, so every worker must call it in the same step.
    Source: Fedus, Zoph and Shazeer 2021, arXiv:2101.03961, eq. 4.
    """
    choices_X, chance_X = sum_over_workers(routed_2X)
    loss: Tensor = len(choices_X) * ((choices_X / choices_X.sum()) * (chance_X / chance_X.sum())).sum()
    return loss
