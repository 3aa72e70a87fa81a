"""The multi-task loss as a module: what it learns (variances, GradNorm's weights) is saved, averaged and restored with the weights.

Shapes: N windows, H horizons, K = 3 H label columns, T tasks that are balanced, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quantfleet.contracts import TrainingStats
from quantfleet.training.loss import LossConfig
from quantfleet.training.task_losses import (
    RETURN_LOSSES,
    direction_loss,
    pinball_loss,
    sharpe_moments,
    sharpe_ratio,
    sum_over_workers,
)

__all__ = ["MultiTaskLoss", "class_weights"]

_LABELS = {"return": 0, "direction": 1, "volatility": 2, "quantiles": 0, "confidence": 1}
"""Which block of the label columns a head is judged by."""
_JUDGED_BY = {"quantiles": "return", "confidence": "direction"}
"""Heads whose targets have another head's name."""
_LARGEST_LOG_VARIANCE = 7.0
"""A task's weight is changed by uncertainty by no more than exp of this, some thousandfold, either way."""
_LEAST_SHARE = 1e-9


def class_weights(up_share_H: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of up and of not-up moves that make both count the same, of mean 1; 1 where only one of them ever came.

    Args:
        up_share_H: share of up moves among the known labels of the training segment.
    """
    both = (up_share_H > 0) & (up_share_H < 1)
    share = torch.where(both, up_share_H, 0.5)
    return 0.5 / share, 0.5 / (1 - share)


class MultiTaskLoss(nn.Module):
    """Heads and targets of a batch, as `ScaledForecaster` gives them, to the loss that training minimises.

    Each label column's weighted sum is divided by the number of slots times the column's mean weight of a slot in the whole
    segment, not by what is known in this batch: so the average over workers equals the loss of the joint batch, whatever the
    masks and weights. The Sharpe ratio is no mean, so its moments are added up over the workers: every worker must then call it
    in every step.

    Parameters (`log_variance_T`) want no weight decay, which would pull the variances to 1. All workers hold the same values: they
    begin equal, and gradients and GradNorm's norms are averaged over workers.

    Args:
        stats: of the training segment.
        slots: windows of the training segment, masked ones included.
    """

    share_K: Tensor
    up_weight_H: Tensor
    down_weight_H: Tensor
    even_H: Tensor
    centre_H: Tensor
    cost_H: Tensor
    level_Q: Tensor
    base_T: Tensor
    weight_T: Tensor
    first_loss_T: Tensor

    def __init__(self, config: LossConfig, stats: TrainingStats, slots: int) -> None:
        super().__init__()
        self.config = config
        self.horizons = H = len(stats.label_mean_K) // 3
        self.tasks = tuple(config.tasks)
        self._mean_weight = stats.mean_weight
        counted_K = stats.label_weight_K / stats.mean_weight if config.sample_weights else stats.label_known_K
        std_H = torch.as_tensor(stats.label_std_K[:H])
        std_H = torch.where(std_H > 0, std_H, 1.0)
        up_H, down_H = torch.ones(H), torch.ones(H)
        if config.balance_classes:
            up_H, down_H = class_weights(torch.as_tensor(stats.label_mean_K[H : 2 * H]))
        constants = {
            "share_K": torch.as_tensor(counted_K) / max(slots, 1),
            "up_weight_H": up_H,
            "down_weight_H": down_H,
            "even_H": torch.ones(H),
            "centre_H": torch.as_tensor(stats.label_mean_K[:H]) / std_H,
            "cost_H": config.sharpe_cost_bps * 1e-4 / std_H,
            "level_Q": torch.tensor(config.quantiles),
            "base_T": torch.tensor(list(config.tasks.values())),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.to(torch.float32), persistent=False)
        T = len(self.tasks)
        if config.balance == "uncertainty":
            self.log_variance_T = nn.Parameter(torch.zeros(T))
        if config.balance == "gradnorm":
            self.register_buffer("weight_T", self.base_T.clone())
            self.register_buffer("first_loss_T", torch.zeros(T))

    def forward(
        self,
        heads: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        mask_N: Tensor,
        weight_N: Tensor | None = None,
        shared: Sequence[Tensor] = (),
    ) -> Tensor:
        """The loss of this worker's share of a batch; scalar.

        Args:
            heads, targets: each (N, H), the head "quantiles" (N, H, Q), the head "position" (N, 1); targets NaN where not known.
            weight_N: sample weights as the chunks hold them; None: all the same.
            shared: parameters of the network's last shared layer; GradNorm's weights are led by their gradients while the
                module is in training mode and gradients are on.
        """
        weight_N = self._weights(mask_N, weight_N)
        losses_T = self.task_losses(heads, targets, mask_N, weight_N)
        if self.config.balance == "uncertainty":
            log_variance_T = self.log_variance_T.clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
            total = (self.base_T * (torch.exp(-log_variance_T) * losses_T + log_variance_T)).sum()
        elif self.config.balance == "gradnorm":
            total = (self.weight_T.clone() * losses_T).sum()
            if self.training and torch.is_grad_enabled():
                self._rebalance(losses_T, shared)
        else:
            total = (self.base_T * losses_T).sum()
        if self.config.sharpe:
            moments = sum_over_workers(self._sharpe_moments(heads, targets, mask_N, weight_N))
            total = total - self.config.sharpe * sharpe_ratio(moments).to(total.dtype)
        return total

    def task_losses(
        self, heads: Mapping[str, Tensor], targets: Mapping[str, Tensor], mask_N: Tensor, weight_N: Tensor
    ) -> Tensor:
        """Mean loss of each balanced task per known label, unweighted by task, (T,), in the order of `tasks`."""
        H, losses = self.horizons, [heads["return"].new_zeros(0, dtype=torch.float32)]
        for task in self.tasks:
            each, _ = self._each(task, heads, targets, mask_N)
            share_H = self.share_K[_LABELS[task] * H : (_LABELS[task] + 1) * H].clamp_min(_LEAST_SHARE)
            losses.append(((each * weight_N[:, None]).mean(0) / share_H).mean()[None])
        return torch.cat(losses)

    def window_losses(self, heads: Mapping[str, Tensor], targets: Mapping[str, Tensor], mask_N: Tensor) -> Tensor:
        """How hard each window is, (N,): the weighted sum over tasks of its mean over the known horizons; 0 where nothing is known.

        Sample weights are left out, for they say how much a window counts and not how hard it is; so is the Sharpe ratio, which
        single windows do not have.
        """
        total = heads["return"].new_zeros(len(mask_N), dtype=torch.float32)
        for task, weight in zip(self.tasks, self.weights(), strict=True):
            each, known = self._each(task, heads, targets, mask_N)
            total = total + weight * each.sum(1) / known.sum(1).clamp_min(1)
        return total

    def weights(self) -> Tensor:
        """Weights by which the balanced tasks count now, (T,), in the order of `tasks`; without gradient."""
        if self.config.balance == "gradnorm":
            return self.weight_T.detach().clone()
        if self.config.balance == "uncertainty":
            bounded_T = self.log_variance_T.detach().clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
            return self.base_T * torch.exp(-bounded_T)
        return self.base_T

    def validation_sums(self, heads: Mapping[str, Tensor], targets: Mapping[str, Tensor], mask_N: Tensor) -> Tensor:
        """What the validation loss is made of, in doubles: it adds up over batches and workers, in any parts. No collective.

        Windows count that know every label, without sample weights.
        """
        known = [torch.isfinite(targets[name]).all(1) for name in ("return", "direction", "volatility")]
        complete_N = mask_N & torch.stack(known).all(0)
        sums = [self._each(task, heads, targets, complete_N)[0].double().mean(1).sum()[None] for task in self.tasks]
        moments = self._sharpe_moments(heads, targets, complete_N, complete_N.double()).flatten()
        return torch.cat([*sums, complete_N.sum().double()[None], moments]).detach()

    def validation_loss(self, sums: Tensor) -> Tensor:
        """The loss under the config's fixed weights, from the `validation_sums` of all windows; 0 without any."""
        T = len(self.tasks)
        total = (self.base_T * sums[:T]).sum() / sums[T].clamp_min(1)
        if self.config.sharpe:
            total = total - self.config.sharpe * sharpe_ratio(sums[T + 1 :].view(3, self.horizons))
        return total

    @property
    def validation_sums_length(self) -> int:
        return len(self.tasks) + 1 + 3 * self.horizons

    def _weights(self, mask_N: Tensor, weight_N: Tensor | None) -> Tensor:
        """Sample weights of mean 1."""
        if weight_N is None or not self.config.sample_weights:
            return torch.ones(mask_N.shape, device=mask_N.device)
        return weight_N / self._mean_weight

    def _each(
        self, task: str, heads: Mapping[str, Tensor], targets: Mapping[str, Tensor], mask_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A task's loss in every place (N, H), 0 where not known, and where it is known."""
        target = targets[_JUDGED_BY.get(task, task)]
        known = torch.isfinite(target) & mask_N[:, None]
        target, head = torch.where(known, target, 0.0), _full(heads[task])
        if task == "direction":
            each = direction_loss(head, target, self.up_weight_H, self.down_weight_H, self.config.focal_gamma)
        elif task == "confidence":
            called_up = (_full(heads["direction"]).detach() - torch.log(self.up_weight_H / self.down_weight_H)) > 0
            came = torch.where(called_up, target, 1 - target)
            each = direction_loss(head, came, self.even_H, self.even_H, 0.0)
        elif task == "quantiles":
            each = pinball_loss(head, target, self.level_Q)
        else:
            each = RETURN_LOSSES[self.config.return_loss if task == "return" else "huber"](head, target)
        return torch.where(known, each, 0.0), known

    def _sharpe_moments(
        self, heads: Mapping[str, Tensor], targets: Mapping[str, Tensor], mask_N: Tensor, weight_N: Tensor
    ) -> Tensor:
        """In units of the returns' spread, with their mean put back: positions follow the sign of the forecast return, or are those
        that the network gives.
        """
        known = torch.isfinite(targets["return"]) & mask_N[:, None]
        if "position" in heads:
            position = _full(heads["position"]).expand_as(targets["return"])
        else:
            position = torch.tanh(self.config.sharpe_gain * (_full(heads["return"]) + self.centre_H))
        return sharpe_moments(
            position,
            torch.where(known, targets["return"] + self.centre_H, 0.0),
            self.cost_H,
            torch.where(known, weight_N[:, None], 0.0),
        )

    def _rebalance(self, losses_T: Tensor, shared: Sequence[Tensor]) -> None:
        """One step of GradNorm's weights (algorithm 1), from gradients and losses of the joint batch.

        The step is taken in the logarithm of the weights and relative to the mean norm, so that its size has no units and weights
        stay above 0; the paper leaves that to Adam. A batch without a finite gradient changes nothing.
        """
        if not shared:
            raise ValueError("GradNorm was given no shared parameters; pass the network's last shared layer.")
        rows = []
        for loss in losses_T:
            gradients = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
            flat = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, shared, strict=True)]
            rows.append(torch.cat([loss.detach()[None].float(), *(g.detach().flatten().float() for g in flat)]))
        joint = torch.stack(rows)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(joint)
            joint /= dist.get_world_size()
        loss_T, norm_T = joint[:, 0], self.weight_T * joint[:, 1:].norm(dim=1)
        mean = norm_T.mean()
        with torch.no_grad():
            usable = torch.isfinite(joint).all() & (mean > 0)
            first_T = torch.where(self.first_loss_T > 0, self.first_loss_T, loss_T)
            pace_T = torch.where(first_T > 0, loss_T / first_T.clamp_min(_LEAST_SHARE), 1.0)
            aim_T = mean * (pace_T / pace_T.mean().clamp_min(_LEAST_SHARE)) ** self.config.gradnorm_alpha
            step_T = torch.sign(norm_T - aim_T) * norm_T / mean.clamp_min(torch.finfo(mean.dtype).tiny)
            moved_T = self.weight_T * torch.exp(-self.config.gradnorm_rate * step_T)
            moved_T = moved_T * (self.base_T.sum() / moved_T.sum())
            self.weight_T.copy_(torch.where(usable, moved_T, self.weight_T))
            self.first_loss_T.copy_(torch.where(usable, first_T, self.first_loss_T))


def _full(head: Tensor) -> Tensor:
    """At least single precision: losses are not computed in half."""
    return head if head.dtype in (torch.float32, torch.float64) else head.float()
