"""Rows for models of the decision bar: a worker's share of the chunks, read a batch at a time.

A row is a target that counts and whose labels are all known: the selected features of its own bar, not of its window, and its
standardised labels.

Shapes: P chunks of a segment, B chunks of a batch, C targets of a chunk, F features, G features after scaling and selection,
K label columns, R rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import ChunkBatch, ChunkReader, TrainingStats
from quantfleet.errors import SchemaError
from quantfleet.transforms import InputTransform

__all__ = ["LabelScale", "RowReader", "Rows", "Share", "decision_rows"]

_SCALE_FILE = "label_scale.json"
_BATCH_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Share:
    """Which of a fit's workers this is. Their shares are runs of neighbouring chunks; together they are all of them."""

    rank: int
    workers: int

    def places(self, chunks: int) -> npt.NDArray[np.int64]:
        """Places of this worker's chunks, out of so many of the segment."""
        return np.array_split(np.arange(chunks, dtype=np.int64), self.workers)[self.rank]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as a booster takes them."""

    x_RG: npt.NDArray[np.float32]
    y_RK: npt.NDArray[np.float32]
    """Standardised by the training segment's moments."""
    weight_R: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.weight_R)

    @property
    def nbytes(self) -> int:
        return self.x_RG.nbytes + self.y_RK.nbytes + self.weight_R.nbytes

    @classmethod
    def concatenate(cls, parts: list[Rows], *, features: int, labels: int) -> Rows:
        """All rows of the parts in their order; arrays without rows where there are no parts."""
        none = cls(np.zeros((0, features), np.float32), np.zeros((0, labels), np.float32), np.zeros(0, np.float32))
        x, y, weight = zip(*((p.x_RG, p.y_RK, p.weight_R) for p in (none, *parts)), strict=True)
        return cls(np.concatenate(x), np.concatenate(y), np.concatenate(weight))


@dataclass(frozen=True, eq=False)
class LabelScale:
    """Moments of the training labels: trees and lines are fitted on labels of mean 0 and deviation 1."""

    mean_K: npt.NDArray[np.float64]
    std_K: npt.NDArray[np.float64]

    @classmethod
    def of(cls, stats: TrainingStats) -> LabelScale:
        return cls(stats.label_mean_K, np.where(stats.label_std_K > 0, stats.label_std_K, 1.0))

    def standardise(self, y_RK: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return ((y_RK.astype(np.float64) - self.mean_K) / self.std_K).astype(np.float32)

    def restore(self, out_RK: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Answers in the labels' own units."""
        return out_RK * self.std_K + self.mean_K

    def save(self, directory: Path) -> None:
        record = {"mean": self.mean_K.tolist(), "std": self.std_K.tolist()}
        (directory / _SCALE_FILE).write_text(json.dumps(record))

    @classmethod
    def load(cls, directory: Path, labels: int) -> LabelScale:
        """Read what `save` wrote. Raises: SchemaError: it is missing, damaged or of another number of labels."""
        path = directory / _SCALE_FILE
        try:
            record = json.loads(path.read_text())
            scale = cls(*(np.asarray(record[name], np.float64) for name in ("mean", "std")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SchemaError(
                f"{path} does not hold the scale of a model's labels: {error}. Fit the model again, or load it from "
                "where it is whole."
            ) from error
        if scale.mean_K.shape != (labels,) or scale.std_K.shape != (labels,):
            raise SchemaError(f"{path} holds the scale of {scale.mean_K.size} labels, the data have {labels}.")
        if not (np.isfinite(scale.mean_K).all() and np.isfinite(scale.std_K).all()):
            raise SchemaError(f"{path} holds numbers that are not finite. Fit the model again.")
        return scale


def decision_rows(batch: ChunkBatch, inputs: InputTransform) -> npt.NDArray[np.float32]:
    """Scaled and selected features of each target's own bar, (B x C, G)."""
    past = 0 if inputs.scaler is None else inputs.scaler.lookback_bars - 1
    x_BTF = batch.x_BTF[:, inputs.given.lookback_bars - 1 - past :]
    return inputs.apply(x_BTF, batch.symbol_id_B).reshape(-1, inputs.spec.features)


@dataclass(frozen=True, eq=False)
class RowReader:
    """One segment as rows. Cheap to pickle; holds no rows. Thread-safe."""

    chunks: ChunkReader
    inputs: InputTransform
    scale: LabelScale
    mean_weight: float | None = None
    """Sample weights are divided by this, so that rows weigh 1 on average; None: all rows weigh the same."""
    batch_bytes: int = _BATCH_BYTES
    """Chunks are read so many bytes at a time, and at least one."""

    @property
    def features(self) -> int:
        return self.inputs.spec.features

    @property
    def labels(self) -> int:
        return len(self.scale.mean_K)

    def batches(self, share: Share) -> list[npt.NDArray[np.int64]]:
        """Places of the share's chunks, batch after batch; what `read` takes."""
        spec = self.inputs.given
        size = max(1, self.batch_bytes // (4 * spec.chunk_rows * spec.features))
        places = share.places(len(self.chunks))
        return [places[first : first + size] for first in range(0, len(places), size)]

    def read(self, place_B: npt.NDArray[np.int64]) -> Rows:
        """The rows of these chunks; there may be none. Raises: StorageError: they cannot be read."""
        batch = self.chunks.take(place_B)
        y_RK = batch.y_BCK.reshape(-1, self.labels)
        chosen = batch.mask_BC.reshape(-1) & np.isfinite(y_RK).all(1)
        return Rows(
            x_RG=decision_rows(batch, self.inputs)[chosen],
            y_RK=self.scale.standardise(y_RK[chosen]),
            weight_R=self._weights(batch.weight_BC.reshape(-1)[chosen]),
        )

    def _weights(self, weight_R: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.ones_like(weight_R) if self.mean_weight is None else weight_R / np.float32(self.mean_weight)

    def most_rows(self, workers: int) -> int:
        """What the largest of so many shares may hold, known without reading one; equal on every worker."""
        targets_P = self.chunks.index().targets_P.astype(np.int64)
        return max(int(targets_P[Share(rank, workers).places(len(targets_P))].sum()) for rank in range(workers))

    def feature_bytes(self, rows: int) -> int:
        """Memory of so many rows' features as they are read, four bytes each."""
        return 4 * rows * self.features
