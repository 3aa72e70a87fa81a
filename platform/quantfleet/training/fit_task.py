"""What the workers of one fit are given, and how each opens its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantfleet.contracts import Augmenter, ChunkReader, DataSpec, Segment, TrainingStats
from quantfleet.storage import Storage
from quantfleet.training.config import TrainingConfig
from quantfleet.training.data_state import DataState
from quantfleet.training.torch_config import TorchModelConfig
from quantfleet.training.windows import CachedChunks, WindowLoader, chunk_bytes
from quantfleet.transforms import InputTransform

if TYPE_CHECKING:
    from quantfleet.training.live import LiveSink

__all__ = ["FitTask", "open_loader"]


@dataclass(frozen=True, kw_only=True)
class FitTask:
    """What a worker needs; chunks travel as readers, by reference."""

    config: TorchModelConfig
    spec: DataSpec
    """Of the chunks; the network reads `inputs.spec`."""
    inputs: InputTransform
    augmenter: Augmenter | None
    stats: TrainingStats
    training: TrainingConfig
    seed: int
    readers: dict[str, ChunkReader]
    storage: Storage
    run: str
    """The fit's folder, relative to the storage root."""
    fit: dict[str, Any]
    """What is fitted, for checkpoints to be recognised by."""
    live: LiveSink | None = None
    """Where rank 0 says how it stands between two reports."""
    profile_folder: str | None = None
    """Where a profiler trace goes, under the storage root."""


def open_loader(
    task: FitTask, segment: Segment, *, rank: int, workers: int, seed: int | None, state: DataState | None = None
) -> WindowLoader:
    """One worker's windows of a segment. Args: seed: None reads in order, for evaluation. state: where training stood."""
    reader, training = task.readers[segment], task.training
    small = len(reader) * chunk_bytes(task.spec) <= training.cache_mb * 1_000_000
    return WindowLoader(
        CachedChunks(reader) if small and not reader.local else reader,
        batch_windows=task.config.batch_windows,
        buffer_chunks=task.config.buffer_chunks,
        seed=seed,
        shards=training.data_shards,
        sampling=training.sampling,
        workers=workers,
        rank=rank,
        state=state,
        reuse_batches=True,
        inputs=task.inputs,
        augmenter=task.augmenter if segment == "train" else None,
        retry_s=training.faults.storage_retry_s,
    )
