"""Cross-sections: features of one moment over all symbols that have a bar then, a span of time a task."""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from quantfleet.storage import Storage
from quantfleet_data.features.cross_section import CrossSectionConfig

__all__ = ["cross_sections"]


def cross_sections(
    storage: Storage, files: Sequence[str], crosses: Sequence[CrossSectionConfig], folder: str, rows_per_task: int
) -> None:
    """Compute cross-sections of staged per-symbol rows into one file a span of time.

    Args:
        files: Parquet under the storage root, one a symbol: symbol, timestamp, and the columns that are ranked.
        folder: where `<number>.parquet` with symbol, timestamp and the crosses' columns is written, sorted by symbol, so
            that a symbol's rows are found by the row groups' statistics.
        rows_per_task: how many rows a task may hold, about; bars that all symbols have at one time are never parted.
    """
    import ray.data

    spans = _spans(storage, files, rows_per_task)
    work = functools.partial(_cross, storage=storage, files=list(files), crosses=tuple(crosses), folder=folder)
    tasks = [{"number": i, "start": start, "end": end} for i, (start, end) in enumerate(spans)]
    ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(work).take_all()


def _spans(storage: Storage, files: Sequence[str], rows_per_task: int) -> list[tuple[int, int]]:
    """Half-open spans of time (microseconds) that hold about equally many rows, from the footers of the files."""
    rows, first, last = 0, [], []
    for file in files:
        with storage.filesystem.open_input_file(storage.path(file)) as stream:
            parquet = pq.ParquetFile(stream)
            rows += parquet.metadata.num_rows
            column = parquet.schema_arrow.get_field_index("timestamp")
            for group in range(parquet.metadata.num_row_groups):
                statistics = parquet.metadata.row_group(group).column(column).statistics
                first.append(_us(statistics.min))
                last.append(_us(statistics.max))
    count = max(1, math.ceil(rows / rows_per_task))
    edges = np.linspace(min(first), max(last) + 1, count + 1).astype(np.int64)
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges) if b > a]


def _us(time: Any) -> int:
    return int(pl.Series([time]).dt.epoch("us")[0])


def _cross(
    row: dict[str, Any], *, storage: Storage, files: Sequence[str], crosses: Sequence[CrossSectionConfig], folder: str
) -> dict[str, Any]:
    read = sorted({cross.of.column for cross in crosses})
    dataset = pads.dataset([storage.path(file) for file in files], filesystem=storage.filesystem, format="parquet")
    start, end = (pl.Series([row[n]]).cast(pl.Datetime("us", "UTC")).to_arrow()[0] for n in ("start", "end"))
    time = pads.field("timestamp")
    values = pl.from_arrow(dataset.to_table(["symbol", "timestamp", *read], filter=(time >= start) & (time < end)))
    assert isinstance(values, pl.DataFrame)
    values = values.sort("symbol", "timestamp")
    made = values.select("symbol", "timestamp").with_columns(
        cross.across(values.select("timestamp", "symbol", value=cross.of.column))["value"].alias(cross.column)
        for cross in crosses
    )
    buffer = io.BytesIO()
    made.write_parquet(buffer, compression="zstd", row_group_size=50_000)
    storage.write_bytes(f"{folder}/{row['number']:06d}.parquet", buffer.getvalue())
    return {"number": row["number"]}
