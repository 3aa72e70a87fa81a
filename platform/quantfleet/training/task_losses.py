"""Losses of single tasks, as plain functions, and the Sharpe ratio of a batch that is spread over workers.

Shapes: N windows, H horizons, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "RETURN_LOSSES",
    "direction_loss",
    "monotone_quantiles",
    "pinball_loss",
    "sharpe_moments",
    "sharpe_ratio",
    "sum_over_workers",
]

_EPSILON = 1e-12
"""Least variance of a P&L, in squares of the returns' spread."""


def _elementwise(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda forecast, target: loss(forecast, target, reduction="none")


RETURN_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "huber": _elementwise(nn.functional.huber_loss),
    "mse": _elementwise(nn.functional.mse_loss),
    "mae": _elementwise(nn.functional.l1_loss),
}
"""By `LossConfig.return_loss`: (N, H), (N, H) to (N, H). huber is 0.5 e^2 up to |e| = 1, |e| - 0.5 above."""


def direction_loss(logit_NH: Tensor, up_NH: Tensor, up_weight_H: Tensor, down_weight_H: Tensor, gamma: float) -> Tensor:
    """Weighted focal cross entropy, (N, H); with gamma 0 and weights 1 the ordinary one.

    Args:
        up_NH: 1 where the return was positive, 0 where not, between them where windows were mixed.
    Source: Lin et al. 2017, arXiv:1708.02002, eq. 5, with the class weights as alpha.
    """
    log_up, log_down = nn.functional.logsigmoid(logit_NH), nn.functional.logsigmoid(-logit_NH)
    up, down = up_weight_H * up_NH * log_up, down_weight_H * (1 - up_NH) * log_down
    if gamma:  # powers through logarithms: their gradients stay finite where a probability rounds to 1
        up, down = up * torch.exp(gamma * log_down), down * torch.exp(gamma * log_up)
    return -(up + down)


def pinball_loss(forecast_NHQ: Tensor, target_NH: Tensor, level_Q: Tensor) -> Tensor:
    """Mean over the levels of max(q e, (q - 1) e), e = target - forecast, (N, H). Its minimiser is the q-quantile.

    Source: Koenker and Bassett 1978, Econometrica 46(1), eq. 2.2.
    """
    error = target_NH[..., None] - forecast_NHQ
    return torch.maximum(level_Q * error, (level_Q - 1) * error).mean(-1)


def monotone_quantiles(free_NHQ: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Free numbers to quantiles that rise with their level: the one nearest the median as it is, then softplus steps outwards.

    Sorting would do as well after the fit, but lets heads trade places during it.
    """
    middle = min(range(len(levels)), key=lambda i: abs(levels[i] - 0.5))
    centre = free_NHQ[..., middle : middle + 1]
    above = centre + nn.functional.softplus(free_NHQ[..., middle + 1 :]).cumsum(-1)
    below = centre - nn.functional.softplus(free_NHQ[..., :middle]).flip(-1).cumsum(-1).flip(-1)
    return torch.cat([below, centre, above], -1)


def sharpe_moments(position_NH: Tensor, return_NH: Tensor, cost_H: Tensor, weight_NH: Tensor) -> Tensor:
    """Weight, sum and sum of squares of each horizon's P&L, (3, H), in doubles; they add up over batches and workers.

    The P&L of a window is position x return - 2 |position| x cost.

    Args:
        return_NH: finite everywhere; weight 0 where it does not count.
        cost_H: of turning a position of 1 over once, in the units of the returns.
    """
    pnl = (position_NH * return_NH - 2 * position_NH.abs() * cost_H).double()
    weight = weight_NH.double()
    return torch.stack([weight.sum(0), (weight * pnl).sum(0), (weight * pnl**2).sum(0)])


def sharpe_ratio(moments_3H: Tensor) -> Tensor:
    """Mean over the horizons of mean P&L / its standard deviation (N - 1); 0 for a horizon with fewer than two windows.

    What it is: the Sharpe ratio of one bet per window, each held for its horizon, as if all were bets of one series; equal to
    `evaluation.metrics.sharpe` of the windows' P&L, not annualised. It is differentiable, and does not depend on the units.
    What it is not: the Sharpe ratio of a portfolio. Windows are shuffled over symbols and times, so nothing is netted or
    diversified, overlapping horizons count as if they were independent, and costs are an upper bound. Nor is it a mean over
    windows: the ratio of a batch is no mean of ratios, so with gradient accumulation it is that of each micro-batch (over all
    workers), noisier the smaller that is. Use batches of some hundred windows at least.
    """
    weight_H, sum_H, squares_H = moments_3H
    enough_H = weight_H > 1
    weight_H = torch.where(enough_H, weight_H, 2.0)
    mean_H = sum_H / weight_H
    variance_H = (squares_H - weight_H * mean_H**2).clamp_min(0.0) / (weight_H - 1)
    return torch.where(enough_H, mean_H / torch.sqrt(variance_H + _EPSILON), 0.0).mean()


def sum_over_workers(local: Tensor) -> Tensor:
    """Sum of a tensor over all workers of the default process group, with gradients; the tensor itself where there is none.

    Backward gives each worker the gradient times the number of workers: where every worker computes the same loss of the sum
    and gradients are then averaged over workers, as DDP, FSDP and ZeRO do, the outcome is the joint batch's gradient. Nothing
    is sent in the backward pass. Every worker must call it in the same step.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local
    summed: Tensor = _SumOverWorkers.apply(local)  # type: ignore[no-untyped-call]
    return summed


class _SumOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * dist.get_world_size()
