"""Fits that are timed: our loop on workers that talk gloo, as tests run it, and the plain torch loop it is compared with."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bench.harness import Timed
from quantfleet.storage import Storage, StorageConfig
from quantfleet.testing.gang import run_gang
from quantfleet.testing.training_data import MemoryReader, memory_data
from quantfleet.training import CheckpointsConfig, DDPConfig, StrategyConfig, TrainingConfig
from quantfleet.training.fit_task import FitTask, open_loader
from quantfleet.training.loop import _Fit
from quantfleet.training.optimisation import learning_rate
from quantfleet.training.step import TrainingModule
from quantfleet.transforms import InputTransform
from quantfleet_models.hybrid import HybridConfig

__all__ = ["Epochs", "against_plain", "fit_task", "run_fit"]

LOOKBACK_BARS, FEATURES, SYMBOLS, CHUNKS, CHUNK_BARS = 32, 32, 4, 6, 64
Size = Literal["0.27M", "1M"]
WIDTHS: dict[Size, int] = {"0.27M": 92, "1M": 180}


@dataclass
class Epochs:
    """What was measured on one worker, one entry an epoch, the first of which warms up."""

    ours_s: list[float] = field(default_factory=list)
    """Seconds per step."""
    peer_s: list[float] = field(default_factory=list)
    ours_loss: list[float] = field(default_factory=list)
    peer_loss: list[float] = field(default_factory=list)
    parameters: int = 0


def fit_task(folder: str, size: Size, *, epochs: int, strategy: StrategyConfig, workers: int, windows: int) -> FitTask:
    """A hybrid on random bars in memory; `windows`: per worker and step."""
    data = memory_data(
        symbols=SYMBOLS, features=FEATURES, chunks=CHUNKS * workers, chunk_bars=CHUNK_BARS, lookback_bars=LOOKBACK_BARS
    )
    config = HybridConfig(
        width=WIDTHS[size], attention_heads=4, attention_layers=2, dropout=0.0, epochs=epochs, patience_epochs=epochs,
        batch_windows=windows * workers,
    )  # fmt: skip
    training = TrainingConfig(
        workers=workers, shards=workers, strategy=strategy, checkpoints=CheckpointsConfig(every_s=3600.0)
    )
    inputs = InputTransform.fit(data, scaler=config.scaler, selection=None, label=None)
    readers: dict[Any, Any] = {
        "train": MemoryReader(data.spec, data.batches["train"]),
        "validation": MemoryReader(data.spec, data.batches["validation"]),
    }
    return FitTask(
        config=config, spec=data.spec, inputs=inputs, augmenter=None, stats=data.stats, training=training, seed=1,
        readers=readers, storage=Storage(StorageConfig(root=folder)), run="train/fit", fit={"size": size},
    )  # fmt: skip


def run_fit(
    size: Size,
    *,
    epochs: int,
    strategy: StrategyConfig | None = None,
    workers: int = 1,
    windows: int = 128,
    beside: bool = False,
) -> Epochs:
    """Fit on a gang of workers, each on a core of its own; what rank 0 measured. `beside`: the plain loop in turn with ours."""
    with tempfile.TemporaryDirectory(prefix="quantfleet-bench-e-") as folder:
        task = fit_task(folder, size, epochs=epochs, strategy=strategy or DDPConfig(), workers=workers, windows=windows)
        made: Epochs = run_gang(_measured, task, beside, workers=workers, folder=Path(folder))[0]
        return made


def against_plain(size: Size, *, rounds: int) -> Timed:
    """Steps of our loop and of the plain one in turn, after they were found to make the same losses."""
    made = run_fit(size, epochs=rounds + 1, beside=True)
    np.testing.assert_allclose(made.ours_loss, made.peer_loss, rtol=1e-6)
    pairs = list(zip(made.ours_s, made.peer_s, strict=True))
    return Timed(pairs=pairs[1:], warm_up_s=pairs[0][0])


def _measured(task: FitTask, beside: bool) -> Epochs:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    epochs = Epochs()
    with contextlib.ExitStack() as stack:
        plain = _plain_epochs(task, epochs) if beside else iter(())
        fit = _Timed(task, stack, epochs, plain)
        fit.run()
    return epochs


class _Timed(_Fit):
    """Our loop with a clock around the steps of an epoch; the plain loop makes the same epoch before or after."""

    def __init__(self, task: FitTask, stack: contextlib.ExitStack, epochs: Epochs, plain: Iterator[None]) -> None:
        super().__init__(task, stack)
        self._epochs, self._plain = epochs, plain
        epochs.parameters = sum(p.numel() for p in self._engine.module.parameters())

    def _train_epoch(self) -> None:
        swapped = self._loader.epoch % 2
        if swapped:
            next(self._plain, None)
        began = time.perf_counter()
        super()._train_epoch()
        self._epochs.ours_s.append((time.perf_counter() - began) / self._loader.steps)
        self._epochs.ours_loss.append(float(self._losses[0] / self._losses[1]))
        if not swapped:
            next(self._plain, None)


def _plain_epochs(task: FitTask, epochs: Epochs) -> Iterator[None]:
    """The loop of a torch tutorial over the same windows: forward, backward, clip, step. One epoch each time it is asked."""
    torch.manual_seed(task.seed)
    forecaster = task.config.build_forecaster(task.inputs.spec)
    forecaster.set_label_scales(task.stats)
    module = TrainingModule(forecaster, task.stats, slots=len(task.readers["train"]) * task.spec.chunk_bars)
    config = task.config
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=config.fused
    )
    loader, step = open_loader(task, "train", rank=0, workers=1, seed=task.seed), 0
    while True:
        module.train()
        began, total = time.perf_counter(), 0.0
        for batch in loader:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, steps_per_epoch=loader.steps)
            optimizer.zero_grad()
            loss = module(batch.x_NLF, batch.y_NK, batch.mask_N, batch.weight_N)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), config.gradient_clip)
            optimizer.step()
            total += float(loss.detach())
            step += 1
        epochs.peer_s.append((time.perf_counter() - began) / loader.steps)
        epochs.peer_loss.append(total / loader.steps)
        loader.end_epoch(None)
        yield
