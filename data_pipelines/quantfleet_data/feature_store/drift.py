"""Drift of a feature table: each feature after a moment against the same feature before it, over all symbols."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow.compute as pc

from quantfleet.errors import EmptyTableError
from quantfleet.evaluation.drift import Drift, ReferenceBins, compare_counts
from quantfleet.storage import LakeTable, TableVersion
from quantfleet_data.per_symbol import per_symbol

__all__ = ["feature_drift"]

SAMPLE_ROWS = 200_000
"""Reference rows of all symbols together from which the bins are drawn."""


def feature_drift(
    table: LakeTable,
    version: TableVersion,
    *,
    reference: tuple[dt.datetime, dt.datetime],
    current: tuple[dt.datetime, dt.datetime],
) -> dict[str, Drift]:
    """Compare two half-open spans of bar opens (UTC), pooled over symbols; the largest drift comes first.

    Two passes of one task a symbol: the first samples the reference to place the bins, the second counts. A task's memory
    is bounded by its symbol's rows, the driver's by SAMPLE_ROWS and the counts.

    Raises: EmptyTableError: one of the spans holds no row.
    """
    schema = table.schema(version.version)
    columns = [name for name, kind in schema.items() if kind == "double"]
    symbols = sorted({partition["symbol"] for partition in table.partitions(version.version)})
    rows_each = max(1, SAMPLE_ROWS // len(symbols))
    sample = functools.partial(_sample, table=table, version=version, columns=columns, span=reference, rows=rows_each)
    samples = per_symbol(symbols).map(sample).take_all()
    bins: dict[str, ReferenceBins] = {}
    undefined: list[str] = []
    for i, name in enumerate(columns):
        values = np.concatenate([np.asarray(row["values"][i], np.float64) for row in samples])
        if not len(values):
            raise EmptyTableError(
                f"{table.uri}@{version.version} has no row from {reference[0]:%Y-%m-%d} to {reference[1]:%Y-%m-%d}."
            )
        if np.isfinite(values).any():
            bins[name] = ReferenceBins.of(values)
        else:
            undefined.append(name)
    count = functools.partial(_count, table=table, version=version, bins=bins, spans=(reference, current))
    counted = per_symbol(symbols).map(count).take_all()
    found: dict[str, Drift] = {}
    for name in bins:
        before, after = (sum(np.asarray(row[side][name], np.int64) for row in counted) for side in ("before", "after"))
        assert isinstance(before, np.ndarray)
        assert isinstance(after, np.ndarray)
        if not after.sum():
            raise EmptyTableError(
                f"{table.uri}@{version.version} has no row from {current[0]:%Y-%m-%d} to {current[1]:%Y-%m-%d}."
            )
        found[name] = compare_counts(before, after)
    for name in undefined:
        nothing = float("nan")
        found[name] = Drift(psi=nothing, ks=nothing, undefined_reference=1.0, undefined_current=nothing, current=0)
    return dict(sorted(found.items(), key=lambda item: -np.nan_to_num(item[1].psi, nan=-1.0)))


def _rows(
    table: LakeTable, version: TableVersion, symbol: str, columns: Sequence[str], span: tuple[dt.datetime, dt.datetime]
) -> pl.DataFrame:
    time = pc.field("timestamp")
    where = (time >= pc.scalar(span[0])) & (time < pc.scalar(span[1]))
    return table.read(version.version, columns=["timestamp", *columns], symbols=(symbol,), where=where).sort(
        "timestamp"
    )


def _sample(
    row: dict[str, Any],
    *,
    table: LakeTable,
    version: TableVersion,
    columns: Sequence[str],
    span: tuple[dt.datetime, dt.datetime],
    rows: int,
) -> dict[str, Any]:
    found = _rows(table, version, row["symbol"], columns, span)
    step = max(1, -(-found.height // rows))
    every = found.gather_every(step)
    return {"symbol": row["symbol"], "values": [every[name].to_list() for name in columns]}


def _count(
    row: dict[str, Any],
    *,
    table: LakeTable,
    version: TableVersion,
    bins: Mapping[str, ReferenceBins],
    spans: tuple[tuple[dt.datetime, dt.datetime], tuple[dt.datetime, dt.datetime]],
) -> dict[str, Any]:
    counts: dict[str, Any] = {"symbol": row["symbol"]}
    for side, span in zip(("before", "after"), spans, strict=True):
        found = _rows(table, version, row["symbol"], list(bins), span)
        counts[side] = {name: one.count(found[name].to_numpy()).tolist() for name, one in bins.items()}
    return counts
