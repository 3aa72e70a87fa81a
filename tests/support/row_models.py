"""Fits of row models in this process, for tests that need no cluster."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quantfleet.contracts import FitContext, ModelConfig
from quantfleet.storage import Storage, StorageConfig
from quantfleet.testing.training_data import MemoryData, memory_data
from quantfleet.training import TrainingConfig
from quantfleet.training.boosting import Grower, Progress, boost, write_checkpoint
from quantfleet.training.row_model import RowTask
from quantfleet.training.rows import Share
from quantfleet.training.single_task import fit_here
from quantfleet_models.lightgbm.model import LightGBMGrower


def learnable_data(seed: int = 0, *, chunks: int = 12, features: int = 5, weights: bool = True) -> MemoryData:
    """Labels that features tell something of, so that trees have something to find."""
    data = memory_data(seed, chunks=chunks, features=features, chunk_bars=16)
    for place, batch in enumerate(data.batches.values()):
        batch.x_BTF[...] -= np.float32(1000.0 * place)
        own = batch.x_BTF[:, data.spec.lookback_bars - 1 :] / 10.0 ** np.arange(features)
        batch.y_BCK[..., 0] += 2 * own[..., 0] - own[..., 1]
        batch.y_BCK[..., 1] = np.where(np.isnan(batch.y_BCK[..., 1]), np.nan, own[..., 2] > own[..., 3])
        batch.y_BCK[..., 2] = np.abs(batch.y_BCK[..., 2]) + np.abs(own[..., 1])
    return data


def context(folder: Path | None = None, **training: Any) -> FitContext:
    storage = Storage(StorageConfig(root=str(folder or "/nowhere")))
    return FitContext(run_name="here", storage=storage, training=TrainingConfig(**training), seed=7)


def task_of(config: ModelConfig, data: MemoryData, **training: Any) -> RowTask:
    """What a fit would send to its workers."""
    return config.build(data.spec)._task(data, context(**training))  # type: ignore[attr-defined]


@dataclass
class Reports:
    """Checkpoints as one worker would report them."""

    task: RowTask
    folder: Path
    kept: list[Path] = field(default_factory=list)
    stop_after: int | None = None

    def boost(self, grower: Grower, progress: Progress) -> Progress:
        def report(now: Progress) -> None:
            directory = self.folder / f"round-{now.rounds}"
            directory.mkdir(parents=True)
            write_checkpoint(directory, self.task, grower, now)
            self.kept.append(directory)
            if self.stop_after is not None and now.rounds >= self.stop_after:
                raise InterruptedError

        with contextlib.suppress(InterruptedError):
            boost(self.task, grower, progress, report)
        return progress


@contextlib.contextmanager
def lone_lightgbm(task: RowTask, share: Share, folder: Path | None) -> Iterator[Grower]:
    """LightGBM's grower without Ray Train around it."""
    yield LightGBMGrower(task, share, folder, network={}, add_up=lambda values: values)


def run_here(model: Any, task: RowTask, context: FitContext) -> tuple[dict[str, bytes], Any]:
    """Stands in for `SingleTaskModel._run`: the fit happens in this process, where it starts a Ray task."""
    fitted = task.config.build(task.spec)
    curve = fit_here(fitted, task)
    with tempfile.TemporaryDirectory() as name:
        fitted.save(Path(name))
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}, curve
