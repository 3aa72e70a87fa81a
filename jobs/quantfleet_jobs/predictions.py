"""Answers of a stored model for whole segments, on Ray Data: every row once, whatever the number of workers."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from quantfleet.contracts import ChunkBatch, DataSpec, Forecast, Segment
from quantfleet.registry.artifact import StoredModel, read_artifact
from quantfleet.storage import Storage
from quantfleet_data.chunks import ChunkStore

__all__ = ["PREDICTED", "StoredArtifact", "prediction_rows", "write_predictions"]

PREDICTED: tuple[Segment, ...] = ("validation", "test")
_BATCH_CHUNKS = 64


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """A model folder under the storage root, and the digest that proves it is the one meant."""

    path: str
    digest: str


def write_predictions(storage: Storage, artifacts: Mapping[str, StoredArtifact], chunks: ChunkStore, path: str) -> None:
    """Let all models answer in one pass over each segment's chunks.

    Writes `path/SEGMENT/model=NAME/*.parquet` with symbol, timestamp, every head per horizon, and what came true.
    """

    def answer(table: pa.Table) -> pa.Table:
        batch = ChunkBatch.from_arrow(table, chunks.spec)
        answers = []
        for name, artifact in artifacts.items():
            forecast = _load(storage, artifact).model.predict(batch)
            rows = prediction_rows(batch, forecast, chunks.spec)
            answers.append(rows.append_column("model", pa.array([name] * rows.num_rows, pa.string())))
        return pa.concat_tables(answers)

    for segment in PREDICTED:
        storage.delete(path, segment)
        rows = chunks.dataset(segment).map_batches(answer, batch_format="pyarrow", batch_size=_BATCH_CHUNKS)
        rows.write_parquet(storage.path(path, segment), filesystem=storage.filesystem, partition_cols=["model"])


@functools.lru_cache(maxsize=16)
def _load(storage: Storage, artifact: StoredArtifact) -> StoredModel:
    """Once per worker process."""
    from quantfleet.plugins import load_plugins
    from quantfleet_jobs.recipe import BUILT_IN_PLUGINS

    load_plugins(BUILT_IN_PLUGINS)
    with tempfile.TemporaryDirectory() as folder:
        storage.download(artifact.path, Path(folder))
        return read_artifact(Path(folder), digest=artifact.digest)


def prediction_rows(batch: ChunkBatch, forecast: Forecast, spec: DataSpec) -> pa.Table:
    """One row per counted target."""
    counted = batch.mask_BC
    symbol_BC = np.broadcast_to(batch.symbol_id_B[:, None], counted.shape)
    names = np.array(spec.symbols, dtype=object)
    columns = {
        "symbol": pa.array(names[symbol_BC[counted]], pa.string()),
        "timestamp": pa.array(batch.time_BC[counted], pa.timestamp("us", tz="UTC")),
    }
    for i, h in enumerate(spec.horizons_bars):
        logit = forecast.direction_logit_BCH[..., i][counted].astype(np.float64)
        columns[f"expected_return_{h}"] = pa.array(forecast.return_BCH[..., i][counted].astype(np.float64))
        columns[f"direction_probability_{h}"] = pa.array(1.0 / (1.0 + np.exp(-logit)))
        columns[f"expected_volatility_{h}"] = pa.array(forecast.volatility_BCH[..., i][counted].astype(np.float64))
    position = None if forecast.position_BC is None else forecast.position_BC[counted].astype(np.float64)
    columns["position"] = pa.nulls(int(counted.sum()), pa.float64()) if position is None else pa.array(position)
    for k, name in enumerate(spec.label_columns):
        known = batch.y_BCK[..., k][counted].astype(np.float64)
        columns[f"realised_{name}"] = pa.array(known, mask=~np.isfinite(known))
    return pa.table(columns)
