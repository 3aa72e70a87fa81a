"""One symbol's tables whose every value names its place, and what is cut of them, for the tests of chunks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Set as AbstractSet
from dataclasses import fields

import numpy as np
import polars as pl

from quantfleet.contracts import ChunkBatch, DataSpec, SplitPlan, TimeInterval
from quantfleet.storage import LakeTable, Storage
from quantfleet_data.chunks import ChunkInputs, ChunkStore, chunk_store_path, symbol_rows, write
from quantfleet_data.chunks.build import SymbolRows

DAY = dt.timedelta(days=1)
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
FEATURES = ("f0", "f1")
SPEC = DataSpec(
    symbols=("AAA", "BBB"), feature_columns=FEATURES, feature_digest="d", horizons_bars=(1,), timeframe="1d", lookback_bars=3,
    chunk_bars=4,
)  # fmt: skip


def day(number: int) -> dt.datetime:
    return START + number * DAY


def plan(*cuts: int) -> SplitPlan:
    """Train, validation and test between six days."""
    a, b, c, d, e, f = cuts
    intervals = tuple(TimeInterval(day(start), day(end)) for start, end in ((a, b), (c, d), (e, f)))
    return SplitPlan(
        train=intervals[:1], validation=intervals[1:2], test=intervals[2:], horizon_bars=1, purge_bars=1, embargo_bars=0,
        timeframe="1d",
    )  # fmt: skip


def tables(
    rows: int,
    *,
    undefined: AbstractSet[tuple[int, int]] = frozenset(),
    horizon: int = 1,
    gaps: AbstractSet[int] = frozenset(),
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features whose value names row and column (100 row + column) and labels (row + 0.5) that are known after `horizon`."""
    stamps = pl.Series("timestamp", [day(r) for r in range(rows) if r not in gaps], dtype=pl.Datetime("us", "UTC"))
    kept = [r for r in range(rows) if r not in gaps]
    features = pl.DataFrame(
        {
            "timestamp": stamps,
            **{
                name: pl.Series(
                    [float("nan") if (r, i) in undefined else 100.0 * r + i for r in kept], dtype=pl.Float64
                )
                for i, name in enumerate(FEATURES)
            },
        }
    )
    known = [r + horizon < rows for r in kept]
    labels = pl.DataFrame(
        {
            "timestamp": stamps,
            "t_end": pl.Series(
                [day(r + horizon + 1) if k else None for r, k in zip(kept, known, strict=True)],
                dtype=pl.Datetime("us", "UTC"),
            ),
            **{
                name: pl.Series(
                    [r + 0.5 if k else float("nan") for r, k in zip(kept, known, strict=True)], dtype=pl.Float64
                )
                for name in SPEC.label_columns
            },
        }
    )
    return features, labels


def built(rows: int, cuts: tuple[int, ...] = (0, 10, 12, 20, 22, 99), spec: DataSpec = SPEC, **options) -> SymbolRows:
    return symbol_rows(*tables(rows, **options), plan(*cuts), spec)


def row_of(time: int) -> int:
    """Row number of a bar time in microseconds."""
    return (dt.datetime.fromtimestamp(time / 1e6, dt.UTC) - START).days


def assert_same(left: ChunkBatch, right: ChunkBatch) -> None:
    for f in fields(ChunkBatch):
        np.testing.assert_array_equal(getattr(left, f.name), getattr(right, f.name), err_msg=f.name)


def chunks_of(storage: Storage) -> ChunkStore:
    """A store of two symbols, each written as a Ray task writes it."""
    versions = []
    for kind, name in enumerate(("features", "labels")):
        rows = [tables(400)[kind].with_columns(symbol=pl.lit(s)) for s in SPEC.symbols]
        versions.append(
            LakeTable(storage, f"lake/{name}/x").overwrite(pl.concat(rows).to_arrow(), partition_by=["symbol"])
        )
    inputs = ChunkInputs(features=versions[0], labels=versions[1], plan=plan(0, 250, 252, 320, 322, 400), spec=SPEC)
    path = chunk_store_path(inputs)
    written = [write._write_symbol({"symbol_id": i}, inputs=inputs, storage=storage, path=path) for i in range(2)]
    return write.commit_symbols(written, inputs, storage, path)
