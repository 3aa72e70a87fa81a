"""Training and judging as the literature does: Adam on the MSE, early stopping by validation, errors over all windows and channels.

Shapes: N windows, L look-back rows, S steps ahead, F channels.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bench.forecast.data import Dataset, Part

__all__ = ["Persistence", "Trained", "Training", "errors", "train"]


class Persistence(nn.Module):
    """The last value, again and again: what every forecaster must beat."""

    def __init__(self, *, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x_NLF: Tensor) -> Tensor:
        return x_NLF[:, -1:].expand(-1, self.steps, -1)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the authors' scripts train."""

    batch: int
    learning_rate: float
    epochs: int = 10
    patience: int = 3
    """Epochs without a lower validation loss after which training ends."""
    decay: Literal["halve", "late"] = "halve"
    """halve: the rate halves after every epoch but the first; late: after every epoch but the first three it falls by a tenth.

    So the scripts' "type1" and "type3" work, which are told the number of the epoch that is over.
    """

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, from 0 on."""
        return self.learning_rate * (0.5 ** max(epoch - 1, 0) if self.decay == "halve" else 0.9 ** max(epoch - 3, 0))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training did; the network holds the weights of its best epoch."""

    epochs: int
    best_epoch: int
    stopped_by_time: bool
    epoch_s: float
    """Mean seconds of an epoch, validation included."""


def _batches(windows_NFT: Tensor, lookback: int, batch: int, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for chosen in order.split(batch):
        window_NTF = windows_NFT[chosen].transpose(1, 2)
        yield window_NTF[:, :lookback], window_NTF[:, lookback:]


@torch.no_grad()
def errors(network: nn.Module, data: Dataset, part: Part, *, lookback: int, steps: int) -> tuple[float, float]:
    """Mean squared and mean absolute error over every window, step and channel, in standardised units."""
    network.eval()
    windows = data.windows(part, lookback=lookback, steps=steps)
    squares = absolutes = count = 0.0
    for x_NLF, y_NSF in _batches(windows, lookback, 256, torch.arange(len(windows))):
        error = (network(x_NLF) - y_NSF).double()
        squares, absolutes, count = (
            squares + error.square().sum().item(),
            absolutes + error.abs().sum().item(),
            count + error.numel(),
        )
    return squares / count, absolutes / count


def train(
    network: nn.Module, data: Dataset, settings: Training, *, lookback: int, steps: int, seed: int, limit_s: float
) -> Trained:
    """Train until the epochs are over, validation no longer falls, or the time is up (after the epoch that runs)."""
    windows = data.windows("train", lookback=lookback, steps=steps)
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    best, best_epoch, kept, began, epoch = float("inf"), 0, network.state_dict(), time.perf_counter(), 0
    for epoch in range(1, settings.epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(epoch - 1)
        network.train()
        for x_NLF, y_NSF in _batches(
            windows, lookback, settings.batch, torch.randperm(len(windows), generator=generator)
        ):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(x_NLF), y_NSF).backward()
            optimizer.step()
        loss, _ = errors(network, data, "validation", lookback=lookback, steps=steps)
        if loss < best:
            best, best_epoch, kept = loss, epoch, copy.deepcopy(network.state_dict())
        if epoch - best_epoch >= settings.patience or time.perf_counter() - began > limit_s:
            break
    spent = time.perf_counter() - began
    network.load_state_dict(kept)
    return Trained(
        epochs=epoch,
        best_epoch=best_epoch,
        stopped_by_time=epoch < settings.epochs and epoch - best_epoch < settings.patience,
        epoch_s=spent / epoch,
    )
