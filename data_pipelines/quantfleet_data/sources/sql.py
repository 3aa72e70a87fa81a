"""Rows of any raw table out of PostgreSQL (TimescaleDB answers the same SQL; not tested): partitioned, parallel, one snapshot.

All reads see the table as it was when the first one began, whoever writes meanwhile. Each partition is one server-side
cursor: a Ray task when Ray is there, otherwise they run one after another. Memory of a reader is one batch.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl
import psycopg2
from pydantic import SecretStr

from quantfleet.contracts import FetchRequest, RawRows, Source, SourceConfig, register_source
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError, SourceError, TimeError, nearest
from quantfleet_data.sources.backoff import Backoff
from quantfleet_data.sources.clock import as_utc, closed_bars
from quantfleet_data.sources.columns import NOUNS, REQUIRED_COLUMNS, VALIDATE, ColumnMap, TimeUnit
from quantfleet_data.sources.sql_reads import KEYS, Partition, Relation, read_partition, snapshot, translated

__all__ = ["SqlConfig"]

_BUFFERED_BATCHES = 2
"""Batches a Ray task may be ahead of its consumer when the order of partitions does not matter."""


@register_source("sql")
@dataclass(frozen=True, kw_only=True, slots=True)
class SqlConfig(SourceConfig):
    """A table or query of PostgreSQL, read in parallel partitions of one snapshot. TimescaleDB speaks its protocol; not tested."""

    url_env: str = "DATABASE_URL"
    """NAME of the environment variable that holds postgresql://user:password@host:port/database. The address is a
    secret, so it never stands in a config."""
    table: str | None = None
    """Table or view, e.g. prices or market.prices; give this or `query`."""
    rows: RawRows = "bars"
    """What its rows are; decides the table of ours that is filled and the columns that are needed."""
    query: str | None = None
    """A SELECT whose rows are these. It is yours and is run as it stands, read-only."""
    columns: dict[str, str] = field(default_factory=dict)
    """Theirs to ours, e.g. {"ticker": "symbol", "ts": "timestamp"}. `volume` may be missing: it becomes null."""
    symbols: tuple[str, ...] = ()
    """Only these; all when empty, at the price of one scan for their names."""
    symbol: str | None = None
    """The symbol of a table that has no such column."""
    time_zone: str | None = None
    """Zone of `timestamp without time zone` columns."""
    time_unit: TimeUnit | None = None
    """Unit of time columns that are numbers since 1970."""
    since_utc: dt.datetime | None = None
    """First bar wanted. Symbols go on from the table's newest bar: after moving this back, read once with `reread_days`
    null."""
    until_utc: dt.datetime | None = None
    """Bars that open at or after this are left out."""
    partition_by: Literal["time", "symbol"] = "symbol"
    """Ranges of time suit hypertables and tables clustered by time; groups of symbols suit an index on (symbol, time)."""
    partitions: int = 8
    parallel: int = 4
    """Partitions read at once on Ray: so many connections, and one more that holds the snapshot."""
    batch_rows: int = 50_000
    reread_days: float | None = 0.0
    """A symbol is read from its newest bar in our table on; so many days before it are read again, so that late
    corrections are seen. None reads everything again."""
    max_retries: int = 3
    """Times one partition may lose its connection without reading a batch in between."""
    name: str | None = None
    """Name in the table's `source` column; "sql" when absent."""

    def __post_init__(self) -> None:
        if "://" in self.url_env or not self.url_env:
            raise ConfigError(
                "url_env takes the name of an environment variable, such as DATABASE_URL, and the address goes into that "
                "variable. Should an address with a password stand in this setting, change the password."
            )
        if (self.table is None) == (self.query is None):
            raise ConfigError("give either `table` or `query`, not both and not none.")
        if self.symbol is not None and (self.symbols or self.column_map.theirs("symbol") != "symbol"):
            raise ConfigError("symbol excludes symbols and a column mapped to symbol; keep one.")
        if self.symbol is not None and self.partition_by == "symbol" and self.partitions > 1:
            raise ConfigError("a table of one symbol has no partitions by symbol; set partition_by to time.")
        if len(set(self.symbols)) != len(self.symbols):
            raise ConfigError(f"symbols names one symbol twice: {', '.join(self.symbols)}.")
        for name in ("partitions", "parallel", "batch_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.reread_days is not None and not self.reread_days >= 0:
            raise ConfigError(f"reread_days={self.reread_days} must be zero or more, or null for everything.")
        _ = self.column_map, self.backoff  # check themselves

    @property
    def raw_table(self) -> RawRows:
        return self.rows

    @property
    def source_name(self) -> str:
        return self.name or self.kind

    @property
    def column_map(self) -> ColumnMap:
        return ColumnMap(rows=self.rows, columns=self.columns, time_zone=self.time_zone, time_unit=self.time_unit)

    @property
    def backoff(self) -> Backoff:
        return Backoff(max_retries=self.max_retries, base_s=0.5, cap_s=10.0, patience_s=0.0)

    def build(self) -> Source:
        """Raises: ConfigError: the environment variable is not set."""
        address = os.environ.get(self.url_env)
        if not address:
            raise ConfigError(
                f"environment variable {self.url_env} is not set; it holds the database's address, "
                "postgresql://user:password@host:port/database."
            )
        return _Sql(self, SecretStr(address))


class _Sql(Source):
    def __init__(self, config: SqlConfig, address: SecretStr) -> None:
        self.config = config
        self.address = address
        self.where = f"source {config.source_name!r} ({config.table or 'query'})"
        self.relation = Relation(
            where=self.where,
            table=config.table,
            query=config.query,
            map=config.column_map,
            symbol=config.symbol,
            batch_rows=config.batch_rows,
        )

    def fetch(self, request: FetchRequest) -> Iterator[pl.DataFrame]:
        """Yield batches of one symbol each; those of one symbol follow each other in time.

        Raises:
            SourceError: the server is not there, refuses, or was lost more often than `max_retries`.
            SchemaError: a column is missing or of the wrong type; raised before the first bar.
            ConfigError: the zone or unit of the time column is not said.
            DataError: bars break the contract; names the symbol.
        """
        try:
            with snapshot(self.address) as (connection, shared):
                columns = self._columns(connection)
                parts, fresh = self._plan(connection, columns, request)
                yield from self._checked(self._batches(columns, shared, parts), request, nothing_known=fresh)
        except psycopg2.Error as error:
            raise translated(error, self.where) from error

    def _columns(self, connection: Any) -> dict[str, int]:
        columns, wanted = self.relation.describe(connection), self.config.column_map
        wanted.wanted(list(columns), where=self.where)
        for ours in REQUIRED_COLUMNS[self.config.rows]:
            name = wanted.theirs(ours)
            if (
                name not in columns
                and ours not in wanted.lacking
                and not (ours == "symbol" and self.config.symbol is not None)
            ):
                raise SchemaError(
                    f"{self.where} has no column {name!r}.{nearest(name, columns)} It has: {', '.join(columns)}. Map it "
                    "with `columns:`.",
                    column=ours,
                )
        return columns

    def _plan(self, connection: Any, columns: Mapping[str, int], request: FetchRequest) -> tuple[list[Partition], bool]:
        """Partitions in order, and whether nothing of this source is known yet."""
        config, kind = self.config, self.relation.time_kind(columns)
        symbols = self._symbols(connection) if config.symbol is None else (config.symbol,)
        known = [request.last_known(symbol) for symbol in symbols]
        since = tuple(self._since(moment) for moment in known)
        until = None if config.until_utc is None else as_utc(config.until_utc)
        named = None if config.symbol is not None else symbols
        starts = [moment for moment in since if moment is not None]
        low = min(starts) if len(starts) == len(since) else None
        fresh = all(moment is None for moment in known)
        if config.partition_by == "symbol":
            count = min(config.partitions, len(symbols))
            cuts = [len(symbols) * i // count for i in range(count + 1)]
            return [
                Partition(symbols=None if named is None else named[a:b], since=since[a:b], low=low, high=until)
                for a, b in itertools.pairwise(cuts)
            ], fresh
        if low is None and self.relation.aggregate(connection, kind, "1", "{time} IS NULL LIMIT 1"):
            raise SchemaError(f"{self.where}: some rows have no time; no range of time would hold them.")
        bounds = None if low is None else self.relation.bound(low, kind)
        first, last = self.relation.aggregate(
            connection, kind, "min({value}), max({value})", "%(low)s IS NULL OR {time} >= %(low)s", low=bounds
        )[0]
        if first is None:
            return [], fresh
        edges = self.relation.to_bars([(first,), (last,)], ["timestamp"], kind)["timestamp"].dt.convert_time_zone("UTC")
        start, end = edges[0], edges[1] + dt.timedelta(microseconds=1)
        end = end if until is None else min(end, until)
        width = max((end - start) / config.partitions, request.timeframe.delta)
        if kind == "date":
            width = max(dt.timedelta(days=-(-width // dt.timedelta(days=1))), dt.timedelta(days=1))
        lows = []
        while start < end:
            lows.append(start)
            start += width
        highs = [*lows[1:], until][: len(lows)]
        return [Partition(symbols=named, since=since, low=a, high=b) for a, b in zip(lows, highs, strict=True)], fresh

    def _symbols(self, connection: Any) -> tuple[str, ...]:
        if self.config.symbols:
            return self.config.symbols
        found = [row[0] for row in self.relation.aggregate(connection, None, "DISTINCT {symbol}")]
        if not found:
            raise EmptyTableError(f"{self.where} holds no {NOUNS[self.config.rows]}.")
        if None in found or "" in found:
            raise SchemaError(f"{self.where}: the symbol is empty in some rows.", column="symbol")
        return tuple(sorted(found))

    def _since(self, known: dt.datetime | None) -> dt.datetime | None:
        starts = [] if self.config.since_utc is None else [as_utc(self.config.since_utc)]
        if known is not None and self.config.reread_days is not None:
            starts.append(as_utc(known) - dt.timedelta(days=self.config.reread_days))
        return max(starts, default=None)

    def _batches(
        self, columns: Mapping[str, int], shared: str, parts: list[Partition]
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """Bars with the number of their partition."""
        arguments = (self.address, self.relation, dict(columns), shared)
        if len(parts) > 1 and _ray_is_here():
            yield from _on_ray(arguments, parts, self.config)
            return
        for number, part in enumerate(parts):
            for batch in read_partition(*arguments, part, self.config.backoff):
                yield number, batch

    def _checked(
        self, batches: Iterator[tuple[int, pl.DataFrame]], request: FetchRequest, *, nothing_known: bool
    ) -> Iterator[pl.DataFrame]:
        seen, delivered = 0, 0
        keys, of_bars = list(KEYS[self.config.rows]), self.config.rows == "bars"
        last: dict[int, tuple[Any, ...]] = {}  # per partition, the last row
        for number, batch in batches:
            rows = VALIDATE[self.config.rows](batch, where=self.where)
            first = rows.select(keys).row(0)
            if last.get(number) == first:
                raise TimeError(f"{self.where}: duplicated timestamps, first {first[0]} {first[1]}. Keep one row each.")
            last[number] = rows.select(keys).row(-1)
            closed = closed_bars(rows, request.timeframe, request.now_utc) if of_bars else rows
            seen, delivered = seen + rows.height, delivered + closed.height
            yield from closed.partition_by("symbol", maintain_order=True)
        if not delivered and nothing_known:
            why = f"all {seen} bars are still open at {request.now_utc}. Check time_unit and time_zone." if seen else ""
            raise EmptyTableError(
                f"{self.where}: {why or f'no {NOUNS[self.config.rows]}. Check symbols, since_utc and until_utc.'}",
                rows=seen,
            )


def _ray_is_here() -> bool:
    try:
        import ray
    except ImportError:
        return False
    return bool(ray.is_initialized())


def _on_ray(
    arguments: tuple[Any, ...], parts: list[Partition], config: SqlConfig
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Read partitions as Ray tasks, `parallel` at a time.

    Groups of symbols come as they are ready, and no task runs far ahead. Ranges of time come in order, so the tasks
    ahead put their bars into the object store, which spills to disk: at most `parallel` partitions are there.
    """
    import ray

    in_order = config.partition_by == "time"
    task = ray.remote(read_partition).options(
        num_returns="streaming", _generator_backpressure_num_objects=-1 if in_order else _BUFFERED_BATCHES
    )
    waiting = deque(enumerate(parts))
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < config.parallel:
                number, part = waiting.popleft()
                running[task.remote(*arguments, part, config.backoff)] = number
            stream = next(iter(running)) if in_order else ray.wait(list(running), num_returns=1)[0][0]
            try:
                batch = ray.get(next(stream))
            except StopIteration:
                del running[stream]
                continue
            yield running[stream], batch
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise SourceError(f"source {config.source_name!r}: a Ray task of its reads was lost: {error}") from error
    finally:
        for stream in running:
            ray.cancel(stream)
