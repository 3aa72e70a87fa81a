"""How weights move: the optimizer, the learning rate of every step, and averages of the weights.

The learning rate is a pure function of the step, so a restart needs no scheduler state and lands on the same value.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from quantfleet.errors import ConfigError
from quantfleet.training.torch_config import TorchModelConfig

__all__ = ["WeightAverage", "adamw", "check_average", "learning_rate"]


def adamw(config: TorchModelConfig, module: nn.Module) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) for a wrapped `TrainingModule`.

    All of the network decays, biases and norms included, as in the paper; what the loss learns does not, since decay would pull
    the tasks' variances to 1.
    """
    network = [p for name, p in module.named_parameters() if p.requires_grad and "objective." not in name]
    loss = [p for name, p in module.named_parameters() if p.requires_grad and "objective." in name]
    groups: list[dict[str, Any]] = [{"params": network, "weight_decay": config.weight_decay}]
    if loss:
        groups.append({"params": loss, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=config.fused)


def learning_rate(config: TorchModelConfig, step: int, *, steps_per_epoch: int) -> float:
    """Learning rate of a step.

    Args:
        step: optimizer steps done before it, over all epochs.
    Source: cosine and warm restarts: Loshchilov and Hutter 2017, arXiv:1608.03983; one-cycle: Smith and Topin 2018,
        arXiv:1708.07120, with torch's defaults (peak at 0.3, from 1/25 of the peak, down to 1/10,000 of that).
    """
    peak, total = config.learning_rate, max(config.epochs * steps_per_epoch, 1)
    warm = config.warmup_epochs * steps_per_epoch
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    if config.schedule == "constant":
        return peak
    if config.schedule == "one_cycle":
        up = 0.3 * total
        if step < up:
            return _cosine(peak / 25, peak, step / up)
        return _cosine(peak, peak / 25 / 1e4, (step - up) / (total - up))
    if config.schedule == "cosine":
        return _cosine(peak, 0.0, (step - warm) / max(total - warm, 1))
    done, length = (step - warm) / steps_per_epoch, float(config.restart_epochs)
    while done >= length:
        done, length = done - length, length * config.restart_growth
    return _cosine(peak, 0.0, done / length)


def _cosine(begin: float, end: float, at: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * min(max(at, 0.0), 1.0))) / 2


class WeightAverage:
    """A running average of a module's parameters, which is what is judged and kept; training goes on with the parameters.

    Args:
        module: its parameters may be slices that each worker has of them; slices are averaged where they lie.
    Source: EMA: Polyak and Juditsky 1992; SWA: Izmailov et al. 2018, arXiv:1803.05407.
    """

    def __init__(self, config: TorchModelConfig, module: nn.Module) -> None:
        self._config = config
        self._parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.tensors: dict[str, Tensor] = {}
        if config.average != "none":
            self.tensors = {f"average.{name}": p.detach().float().clone() for name, p in self._parameters}
            self.tensors["averaged"] = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self, step: int, *, steps_per_epoch: int) -> None:
        """Take in the weights after a step. Args: step: optimizer steps done, this one included."""
        if self._config.average == "ema":
            # a young average follows closely, so that it does not remember how the weights were drawn
            self._move(1 - min(self._config.ema_decay, (1 + step) / (10 + step)))
        elif self._config.average == "swa":
            first = math.ceil(self._config.swa_from * self._config.epochs)
            if step % steps_per_epoch == 0 and step // steps_per_epoch > first:
                self._move(1 / (1 + int(self.tensors["averaged"])))

    def _move(self, weight: float) -> None:
        for name, parameter in self._parameters:
            self.tensors[f"average.{name}"].lerp_(parameter.detach().float(), weight)
        self.tensors["averaged"] += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the module has the average for its weights, where there is one yet."""
        if not self.tensors or not int(self.tensors["averaged"]):
            yield
            return
        with torch.no_grad():
            kept = [parameter.detach().clone() for _, parameter in self._parameters]
            for name, parameter in self._parameters:
                parameter.copy_(self.tensors[f"average.{name}"])
        try:
            yield
        finally:
            with torch.no_grad():
                for (_, parameter), before in zip(self._parameters, kept, strict=True):
                    parameter.copy_(before)


def check_average(config: TorchModelConfig, *, zero_stage: int | None) -> None:
    """Raises: ConfigError: the strategy leaves no weights on a worker to average."""
    if config.average != "none" and zero_stage == 3:
        raise ConfigError(
            f"{config.label}.average={config.average!r} needs weights that a worker can read between steps, and ZeRO stage 3 frees "
            "them. Use zero_stage 1 or 2, or fsdp, or average: none."
        )
