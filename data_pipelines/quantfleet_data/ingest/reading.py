"""Raw tables for the stages that follow: bars of whatever sources, one row per symbol and time; events of one source."""

from __future__ import annotations

import datetime as dt
import functools
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from quantfleet.contracts import BAR_COLUMNS, OPTIONAL_BARS_SCHEMA
from quantfleet.errors import ConfigError, DataError, EmptyTableError, nearest
from quantfleet.storage import LakeTable, Storage
from quantfleet_data.ingest.tables import TABLES, bars_path

__all__ = ["event_stretches", "list_symbols", "read_bars", "read_events"]


def list_symbols(storage: Storage, timeframe: str, version: int | None) -> tuple[str, ...]:
    """Symbols of a version of the bars table (the newest when None), sorted.

    Raises: MissingInputError: the table was never written. StorageError: there is no such version.
    """
    table = LakeTable(storage, bars_path(timeframe))
    return tuple(sorted({partition["symbol"] for partition in table.partitions(version)}))


def read_bars(
    storage: Storage,
    timeframe: str,
    version: int | None,
    symbols: Sequence[str] | None = None,
    *,
    source_priority: Sequence[str] = (),
    optional: bool = False,
) -> pl.DataFrame:
    """Read one bar per symbol and time out of a version of the bars table (the newest when None).

    Args:
        symbols: only these (their partitions are read, no other); all when None.
        source_priority: sources as in column `source`, best first. Where several have the same bar, the first listed
            gives all of its values; where only one has it, that one is taken, listed or not.
        optional: read the columns of OPTIONAL_BARS_SCHEMA, too, where the table has them.
    Returns: BAR_COLUMNS (and those), sorted by symbol and timestamp; timestamps in UTC.
    Raises:
        MissingInputError: the table was never written. StorageError: there is no such version.
        EmptyTableError: a symbol asked for, or the whole table, has no bars.
        DataError: sources overlap, and the priority does not decide between them.
    """
    if len(set(source_priority)) != len(source_priority):
        raise ConfigError(f"source_priority names one source twice: {', '.join(source_priority)}.")
    table = LakeTable(storage, bars_path(timeframe))
    there = table.schema(version) if optional else ()
    columns = [*BAR_COLUMNS, *(name for name in OPTIONAL_BARS_SCHEMA.names if name in there)]
    bars = table.read(version, columns=[*columns, "source"], symbols=symbols).sort("symbol", "timestamp", "source")
    absent = [symbol for symbol in symbols or () if symbol not in set(bars["symbol"].unique())]
    if absent:
        known = list_symbols(storage, timeframe, version)
        raise EmptyTableError(
            f"{table.uri} has no bars of {', '.join(absent)}.{nearest(absent[0], known)}", symbols=absent
        )
    if bars.is_empty():
        raise EmptyTableError(f"{table.uri} holds no bars.")
    ranks = {source: rank for rank, source in enumerate(source_priority)}
    doubled = bars.filter(pl.struct("symbol", "timestamp").is_duplicated())
    undecided = doubled.filter(~pl.col("source").is_in(list(ranks)))
    if not undecided.is_empty():
        first = undecided.row(0, named=True)
        rivals = doubled.filter((pl.col("symbol") == first["symbol"]) & (pl.col("timestamp") == first["timestamp"]))[
            "source"
        ].to_list()
        raise DataError(
            f"{table.uri}: {' and '.join(rivals)} both have {first['symbol']} {first['timestamp']} (and "
            f"{undecided.height - 1} more such rows). Say which source wins, best first: source_priority={rivals!r}.",
            sources=rivals,
        )
    if not doubled.is_empty():
        rank = pl.col("source").replace_strict(ranks, default=len(ranks), return_dtype=pl.Int64)
        bars = bars.sort("symbol", "timestamp", rank).unique(("symbol", "timestamp"), keep="first", maintain_order=True)
    return bars.select(columns)


def read_events(
    storage: Storage,
    name: Literal["trades", "book", "funding"],
    version: int | None,
    symbols: Sequence[str] | None = None,
    *,
    source: str | None = None,
    within: tuple[dt.datetime, dt.datetime] | None = None,
) -> pl.DataFrame:
    """Read trades, book levels or funding rates out of a version of their table (the newest when None), in their order.

    A Delta table keeps no order: trades of one time come by their ids (numbers by value), book levels by their sequence.

    Args:
        symbols: only these (their partitions are read, no other); all when None.
        source: as in column `source`; needed where several sources are in the table, since events are never mixed.
        within: only rows of times [start, end).
    Returns: the columns of the contract, sorted by symbol and time; passes `validate_trades`, `validate_book`, ...
    Raises:
        MissingInputError: the table was never written. StorageError: there is no such version.
        EmptyTableError: there are no such rows.
        DataError: several sources, and none was named.
    """
    kind = TABLES[name]
    table = LakeTable(storage, kind.path("1d"))
    tests = [] if source is None else [pc.field("source") == source]
    if within is not None:
        start, end = (pa.scalar(time, kind.schema.field("timestamp").type) for time in within)
        tests += [pc.field("timestamp") >= start, pc.field("timestamp") < end]
    where = functools.reduce(operator.and_, tests) if tests else None
    rows = table.read(version, symbols=symbols, where=where)
    if rows.is_empty():
        raise EmptyTableError(f"{table.uri} has no {kind.noun} of {', '.join(symbols or ('any symbol',))}.")
    sources = rows["source"].unique().sort().to_list()
    if len(sources) > 1:
        raise DataError(f"{table.uri} holds {kind.noun} of {' and '.join(sources)}; name one: source={sources[0]!r}.")
    ties: dict[str, list[pl.Expr]] = {
        "trades": [pl.col("trade_id").str.len_chars(), pl.col("trade_id")],
        "book": [pl.col("sequence"), pl.col("side"), pl.col("price")],
    }
    order = [pl.col("symbol"), pl.col("timestamp"), *ties.get(name, [])]
    return rows.sort(order).select(kind.schema.names[:-2])


def event_stretches(
    storage: Storage,
    name: Literal["trades", "book", "funding"],
    version: int | None,
    symbol: str,
    *,
    source: str | None = None,
    rows: int,
) -> Iterator[tuple[dt.datetime, dt.datetime]]:
    """Spans [start, end) of whole hours, in order, that hold all of a symbol's rows, at most `rows` each or one hour's.

    Memory: one batch of times, and a count an hour. Read each with `read_events(..., within=span)`.
    """
    dataset = LakeTable(storage, TABLES[name].path("1d")).dataset(version, symbols=(symbol,))
    where = pc.field("symbol") == symbol
    where = where if source is None else where & (pc.field("source") == source)
    counts = Counter[dt.datetime]()
    for batch in dataset.to_batches(columns=["timestamp"], filter=where):
        times = pl.Series("hour", pl.from_arrow(batch.column(0))).dt.truncate("1h")
        counts.update(dict(times.value_counts().iter_rows()))
    start: dt.datetime | None = None
    gathered = 0
    for hour in sorted(counts):
        if start is not None and gathered + counts[hour] > rows:
            yield start, hour
            start, gathered = None, 0
        start, gathered = start or hour, gathered + counts[hour]
    if start is not None:
        yield start, max(counts) + dt.timedelta(hours=1)
