"""Chunks as stored data: files of records per segment and symbol, an index of all chunks, and a manifest that makes them valid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from quantfleet.contracts import SEGMENTS, ChunkBatch, DataSpec, Segment, TrainingStats
from quantfleet.errors import MissingInputError, SchemaError
from quantfleet.storage import Storage
from quantfleet_data.chunks.records import Part, SegmentReader

if TYPE_CHECKING:
    import ray.data

__all__ = ["ChunkStore"]

_MANIFEST = "manifest.json"
_FORMAT = 3
_STATS = ("feature_mean_F", "feature_std_F", "label_mean_K", "label_std_K", "label_known_K", "label_weight_K")
_DATASET_BYTES = 16_000_000
"""Chunks that one reference of a dataset stands for, by their size."""


@dataclass(frozen=True)
class ChunkStore:
    """Implements the engine's `TrainingData`. A store is written once and never changed; its path names its content."""

    storage: Storage
    path: str
    spec: DataSpec
    stats: TrainingStats
    parts: dict[Segment, tuple[Part, ...]]
    """Files relative to `path` and their chunks, in order of chunk_id."""

    def chunks(self, segment: Segment) -> int:
        return len(self.reader(segment))

    def reader(self, segment: Segment) -> SegmentReader:
        return SegmentReader(self.storage.absolute(), self.path, self.spec, segment, self.parts[segment])

    def dataset(self, segment: Segment) -> ray.data.Dataset:
        """Raises: MissingInputError: the segment has no chunk."""
        import ray.data

        reader, chunks = self.reader(segment), self.chunks(segment)
        if not chunks:
            raise MissingInputError(f"{self.path} holds no {segment} chunks; widen the segment in `split`.")
        each = max(1, _DATASET_BYTES // (4 * self.spec.chunk_rows * self.spec.features))
        references = [{"first": first, "count": min(each, chunks - first)} for first in range(0, chunks, each)]
        return ray.data.from_items(references).map_batches(
            _resolved, fn_kwargs={"reader": reader}, batch_size=1, batch_format="pyarrow"
        )

    def read(self, segment: Segment, *, batch_chunks: int = 64) -> Iterator[ChunkBatch]:
        reader = self.reader(segment)
        for first in range(0, len(reader), batch_chunks):
            yield reader.take(np.arange(first, min(first + batch_chunks, len(reader)), dtype=np.int64))

    def at(self, storage: Storage) -> ChunkStore:
        """The same store opened through another Storage (for example one with an absolute root)."""
        return replace(self, storage=storage)

    def commit(self) -> None:
        """Write the manifest: from now on the store exists."""
        record: dict[str, Any] = {
            "format": _FORMAT,
            "spec": self.spec.to_dict(),
            "stats": {name: getattr(self.stats, name).tolist() for name in _STATS},
            "targets": dict(self.stats.targets),
            "parts": {s: [list(part) for part in self.parts[s]] for s in SEGMENTS},
        }
        self.storage.write_text(f"{self.path}/{_MANIFEST}", json.dumps(record, indent=1))

    @classmethod
    def exists(cls, storage: Storage, path: str) -> bool:
        return storage.exists(path, _MANIFEST)

    @classmethod
    def open(cls, storage: Storage, path: str) -> ChunkStore:
        """Raises: MissingInputError: the store was never finished. SchemaError: an older version of Quantfleet wrote it."""
        record = json.loads(storage.read_text(path, _MANIFEST))
        if record.get("format") != _FORMAT:
            raise SchemaError(
                f"{storage.uri(path)} holds chunks of format {record.get('format', 1)}, this version reads {_FORMAT}. "
                "Delete the folder and run the stage that wrote it again."
            )
        stats = {name: np.asarray(record["stats"][name]) for name in _STATS}
        return cls(
            storage=storage,
            path=path,
            spec=DataSpec.from_dict(record["spec"]),
            stats=TrainingStats(**stats, targets=record["targets"]),
            parts={s: tuple((str(file), int(count)) for file, count in record["parts"][s]) for s in SEGMENTS},
        )


def _resolved(references: pa.Table, *, reader: SegmentReader) -> pa.Table:
    """Runs in a Ray task: read what one reference stands for."""
    (reference,) = references.to_pylist()
    first, count = int(reference["first"]), int(reference["count"])
    return reader.take(np.arange(first, first + count)).to_arrow(reader.spec)
