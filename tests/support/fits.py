"""Small fits: in this process; and for the gang a task over chunks in memory, and work that records what it trains on and dies
where it is told.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch

from quantfleet.contracts import FitReport
from quantfleet.storage import Storage, StorageConfig
from quantfleet.testing.training_data import MemoryData, MemoryReader, memory_data
from quantfleet.training import TorchModelConfig, TrainingConfig
from quantfleet.training.checkpoints import BestWeights, best_weights
from quantfleet.training.fit_task import FitTask
from quantfleet.training.objective import MultiTaskLoss
from quantfleet.training.torch_model import TorchModel
from quantfleet.training.windows import WindowLoader
from quantfleet.transforms import InputTransform
from quantfleet_models.hybrid import HybridConfig

SHARDS = 4


def fit_torch_here(model: TorchModel, data: MemoryData, context: Any = None) -> FitReport:
    """An epoch in this process, where the real fit starts workers."""
    config = model.config
    inputs = InputTransform.fit(data, scaler=config.scaler, selection=config.selection, label=config.selection_label)
    model._build(inputs.spec)
    model.forecaster.set_label_scales(data.stats)
    optimizer = torch.optim.Adam(model.forecaster.parameters(), 1e-3)
    objective = MultiTaskLoss(config.loss, data.stats, data.batches["train"].mask_BC.size)
    loader = WindowLoader(
        data.reader("train"), batch_windows=16, buffer_chunks=4, seed=1, inputs=inputs,
        augmenter=config.augmenter(data, inputs, seed=1),
    )  # fmt: skip
    for step in loader:
        heads, targets = model.forecaster(step.x_NLF), model.forecaster.targets(step.y_NK)
        loss = objective(heads, targets, step.mask_N, step.weight_N)
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.inputs = inputs
    return FitReport()


def fit_task(
    root: Path, training: TrainingConfig, *, config: TorchModelConfig | None = None, **settings: Any
) -> FitTask:
    """Two epochs of six steps over four symbols; everything under `root`. `config`: another model than a small hybrid."""
    data = memory_data(seed=1, symbols=4, chunks=12, chunk_bars=16, lookback_bars=8)
    options = {"epochs": 2, "width": 8, "attention_heads": 2, "batch_windows": 128, "dropout": 0.0, "buffer_chunks": 4}
    config = config or HybridConfig(**{**options, **settings})
    inputs = InputTransform.fit(data, scaler=config.scaler, selection=None, label=None)
    return FitTask(
        config=config, spec=data.spec, inputs=inputs, augmenter=None, stats=data.stats, training=training, seed=3,
        readers={s: MemoryReader(data.spec, data.batches[s]) for s in ("train", "validation")},
        storage=Storage(StorageConfig(root=str(root))), run="train/fit", fit={"model": {"width": getattr(config, "width", 0)}},
    )  # fmt: skip


def recorded_fit(config: dict[str, Any], log: str, kill: tuple[int, int] | None = None) -> dict[str, Any]:
    """`fit_on_worker`, writing down the windows of every step; `kill`: (step, rank) at whose end a worker is killed by -9."""
    import ray.train

    from quantfleet.training import loop

    rank = ray.train.get_context().get_world_rank()
    plain = loop._Fit._step

    def step(self: Any, batch: Any) -> None:
        number, epoch = self._progress.step, self._loader.epoch
        plain(self, batch)
        windows = [
            f"{place}:{y}"
            for place, y in zip(batch.place_N.tolist(), batch.y_NK.nan_to_num().sum(1).tolist(), strict=True)
        ]
        counted = [w for w in windows if not w.startswith("-1:")]
        record = {"step": number, "epoch": epoch, "attempt": self._progress.attempt, "windows": counted}
        with Path(log, f"rank{rank}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        if kill == (number, rank):
            os.kill(os.getpid(), signal.SIGKILL)

    loop._Fit._step = step  # type: ignore[method-assign]
    return loop.fit_on_worker(config)


def windows_by_step(log: Path) -> dict[int, list[str]]:
    """Windows that each step trained on, of the last attempt that made it, over all workers."""
    steps: dict[int, dict[int, list[str]]] = {}
    for file in sorted(log.glob("rank*.jsonl")):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            steps.setdefault(record["step"], {}).setdefault(record["attempt"], []).extend(record["windows"])
    return {step: sorted(attempts[max(attempts)]) for step, attempts in sorted(steps.items())}


def best_of(root: Path) -> BestWeights:
    return best_weights(Storage(StorageConfig(root=str(root))), "train/fit")[0]
