"""Bars of the lake as blocks of time, each with all symbols: what an index is built from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from quantfleet.contracts import BAR_COLUMNS, BARS_SCHEMA
from quantfleet.errors import ConfigError, DataError, EmptyTableError
from quantfleet.storage import LakeTable, Storage
from quantfleet.storage.store import translated_errors
from quantfleet_data.ingest import bars_path

__all__ = ["bar_blocks"]

_STAMP = BARS_SCHEMA.field("timestamp").type


def bar_blocks(
    storage: Storage,
    timeframe: str,
    version: int | None = None,
    *,
    symbols: Sequence[str] | None = None,
    source: str | None = None,
    days: float = 30.0,
) -> Iterator[pl.DataFrame]:
    """Yield a version of the bars table (the newest when None) in order of time, `days` at once.

    Memory: the bars of one block. The files of the table that have no row in a block are not opened for it.

    Args:
        symbols: only these; all when None.
        source: as in column `source`; needed where several sources have bars in the table.
    Returns: an iterator over BAR_COLUMNS, sorted by symbol and time; stretches without bars give no block.
    Raises:
        ConfigError: days is not positive.
        MissingInputError: the table was never written. EmptyTableError: it has no such bars.
        DataError: several sources have bars there, and none was named.
    """
    if not days > 0:
        raise ConfigError(f"days={days} must be above zero.")
    table = LakeTable(storage, bars_path(timeframe))
    version = table.latest().version if version is None else version
    first, last = _reach(table, version)
    made, seen = 0, set[str]()
    while first is not None and last is not None and first <= last:
        after = first + dt.timedelta(days=days)
        where = (pc.field("timestamp") >= pa.scalar(first, _STAMP)) & (pc.field("timestamp") < pa.scalar(after, _STAMP))
        if source is not None:
            where = where & (pc.field("source") == source)
        block = table.read(version, columns=[*BAR_COLUMNS, "source"], symbols=symbols, where=where).sort(
            "symbol", "timestamp"
        )
        seen.update(block["source"].unique())
        if len(seen) > 1:
            raise DataError(f"{table.uri} holds bars of {' and '.join(sorted(seen))}; name one: source={min(seen)!r}.")
        if not block.is_empty():
            made += 1
            yield block.select(BAR_COLUMNS)
        first = after
    if not made:
        raise EmptyTableError(f"{table.uri} has no bars of those symbols and that source.")


def _reach(table: LakeTable, version: int) -> tuple[dt.datetime | None, dt.datetime | None]:
    """First and last open time, out of the log: no row is read. None, None for a table without rows."""
    table.read(version, where=pc.scalar(False))  # says what is wrong with the table, in its words
    with translated_errors(table.uri):
        opened = DeltaTable(table.uri, version=version, storage_options=table.options)
        files = pl.DataFrame(pa.table(opened.get_add_actions(flatten=True)))
    if files.is_empty():
        return None, None
    known = files.select(pl.col("min.timestamp").min(), pl.col("max.timestamp").max()).row(0)
    return known[0].astimezone(dt.UTC), known[1].astimezone(dt.UTC)
