"""One partition of a PostgreSQL table as batches of bars: one server-side cursor, in a snapshot that others share.

Names are quoted identifiers and values are bind parameters; no SQL text is made of data. A partition that loses its
connection opens another one in the same snapshot and goes on behind the last row it had, so nothing is read twice.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import time
import zoneinfo
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl
import psycopg2
import psycopg2.errorcodes
import psycopg2.extensions
from psycopg2 import sql
from pydantic import SecretStr

from quantfleet.contracts import RawRows
from quantfleet.errors import ConfigError, SchemaError, SourceError
from quantfleet.logs import get_logger
from quantfleet.storage.store import one_line
from quantfleet_data.sources.backoff import Backoff, GiveUp
from quantfleet_data.sources.columns import ColumnMap

__all__ = ["KEYS", "Partition", "Relation", "TimeKind", "read_partition", "snapshot", "translated"]

_log = get_logger(__name__)

TimeKind = Literal["timestamptz", "timestamp", "date", "bigint", "double precision"]
_TIME_KINDS: dict[int, TimeKind] = {
    1184: "timestamptz", 1114: "timestamp", 1082: "date", 20: "bigint", 21: "bigint", 23: "bigint",
    700: "double precision", 701: "double precision", 1700: "double precision",
}  # fmt: skip
"""PostgreSQL's type numbers of what a time can be."""
KEYS: Mapping[RawRows, tuple[str, ...]] = {
    "bars": ("symbol", "timestamp"),
    "trades": ("symbol", "timestamp", "trade_id"),
    "book": ("symbol", "timestamp", "sequence", "side", "price"),
    "funding": ("symbol", "timestamp"),
}
"""What tells two rows apart, and the order in which they are read: a read that broke goes on behind the last one."""
_CASTS = {"text": "{}::text", "integer": "{}::bigint", "number": "{}::double precision"}
_CALENDAR = ("timestamptz", "timestamp", "date")
_UNITS_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_LINK = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""A server that vanished is noticed within a minute, not after the two hours of TCP's own clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """Rows of one read."""

    symbols: tuple[str, ...] | None
    """None where the table has no symbol column: then there is one entry in `since`."""
    since: tuple[dt.datetime | None, ...]
    """Per symbol, the first open time that is wanted, UTC; None: from the beginning."""
    low: dt.datetime | None = None
    """First open time of all, UTC."""
    high: dt.datetime | None = None
    """Open times are below this, UTC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """A table or query, and what its columns mean. Pickles, so that it can travel to workers."""

    where: str
    table: str | None
    query: str | None
    map: ColumnMap
    symbol: str | None
    """The symbol of every row, for tables without such a column."""
    batch_rows: int

    def describe(self, connection: Any) -> dict[str, int]:
        """The columns and the numbers of their types."""
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT * FROM {} AS t LIMIT 0").format(self._item()), {})
            return {column.name: column.type_code for column in cursor.description}

    def time_kind(self, columns: Mapping[str, int]) -> TimeKind:
        """What the time column is.

        Raises: SchemaError: no date, time or number. ConfigError: its zone or unit is not said.
        """
        name = self.map.theirs("timestamp")
        kind = _TIME_KINDS.get(columns[name])
        if kind is None:
            raise SchemaError(
                f"{self.where}: column {name!r} is no date, time or number, so it cannot be cut into ranges. Cast it in "
                f"`query`, e.g. {name}::timestamptz AS {name}.",
                column=name,
            )
        if kind == "timestamp" and self.map.time_zone is None:
            raise ConfigError(f"{self.where}: {name!r} is a timestamp without time zone; say which with `time_zone`.")
        if kind in ("bigint", "double precision") and self.map.time_unit is None:
            raise ConfigError(f"{self.where}: {name!r} holds numbers; set `time_unit` to s, ms, us or ns since 1970.")
        return kind

    def bound(self, moment: dt.datetime | None, kind: TimeKind) -> Any:
        """A moment (UTC) as a value to compare the time column with."""
        if moment is None:
            return None
        if kind == "timestamp":
            return moment.astimezone(zoneinfo.ZoneInfo(self.map.time_zone or "UTC")).replace(tzinfo=None)
        if kind == "date":
            return moment.date()
        if kind == "timestamptz":
            return moment
        micros = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
        return micros * _UNITS_PER_S[self.map.time_unit or "us"] // 1_000_000

    def select(
        self, columns: Mapping[str, int], kind: TimeKind, part: Partition, after: Mapping[str, Any] | None
    ) -> tuple[Any, Any]:
        """The statement of one partition, behind row `after` (its KEYS, or None), and its parameters."""
        time_column, chosen = self.column("timestamp"), []
        for ours in self.map.ours:
            if self.map.theirs(ours) not in columns or (ours == "symbol" and self.symbol is not None):
                continue
            value = self._time_value(kind) if ours == "timestamp" else self._cast(ours)
            chosen.append(sql.SQL("{} AS {}").format(value, sql.Identifier(ours)))
        parameters: dict[str, Any] = {"low": self.bound(part.low, kind), "high": self.bound(part.high, kind)}
        tests = []
        ties = KEYS[self.map.rows][2:]
        order = [time_column, *map(self._cast, ties)]
        behind = ["after_timestamp", *(f"after_{name}" for name in ties)]
        if part.symbols is None:
            joined = sql.SQL("")
            parameters["since"] = self.bound(part.since[0], kind)
            if part.since[0] is not None:
                tests.append(sql.SQL("{} >= %(since)s").format(time_column))
        else:
            symbol = self._cast("symbol")
            order, behind = [symbol, *order], ["after_symbol", *behind]
            joined = sql.SQL(
                "JOIN unnest(%(symbols)s::text[], %(since)s::{}[]) AS wanted(symbol, since) ON {} = wanted.symbol"
            ).format(sql.SQL(kind), symbol)
            parameters["symbols"] = list(part.symbols)
            parameters["since"] = [self.bound(moment, kind) for moment in part.since]
            tests.append(sql.SQL("(wanted.since IS NULL OR {} >= wanted.since)").format(time_column))
        if part.low is not None:
            tests.append(sql.SQL("{} >= %(low)s").format(time_column))
        if part.high is not None:
            tests.append(sql.SQL("{} < %(high)s").format(time_column))
        if after is not None:
            places = sql.SQL(", ").join(map(sql.Placeholder, behind))
            tests.append(sql.SQL("({}) > ({})").format(sql.SQL(", ").join(order), places))
            parameters |= {f"after_{name}": value for name, value in after.items()}
            parameters["after_timestamp"] = _as_stored(after["timestamp"], kind)
        statement = sql.SQL("SELECT {} FROM {} AS t {} WHERE {} ORDER BY {}").format(
            sql.SQL(", ").join(chosen),
            self._item(),
            joined,
            sql.SQL(" AND ").join([sql.SQL("TRUE"), *tests]),
            sql.SQL(", ").join(order),
        )
        return statement, parameters

    def _time_value(self, kind: TimeKind) -> sql.Composable:
        """What a cursor delivers of the time: numbers, since the driver takes ten times as long over dates."""
        text = "{}::double precision" if kind == "double precision" else "{}::bigint"
        if kind in _CALENDAR:
            text = "(extract(epoch FROM {}) * 1000000)::bigint"
        return sql.SQL(text).format(self.column("timestamp"))

    def aggregate(
        self, connection: Any, kind: TimeKind | None, what: str, test: str = "TRUE", **values: Any
    ) -> list[tuple[Any, ...]]:
        """Rows of a small summary; in the texts of this code {time} and {symbol} are columns, {value} what a read gives of
        a time.
        """
        names = {
            "time": self.column("timestamp"),
            "value": sql.SQL("NULL") if kind is None else self._time_value(kind),
            "symbol": sql.SQL("NULL") if self.symbol is not None else sql.SQL("{}::text").format(self.column("symbol")),
        }
        statement = sql.SQL("SELECT {} FROM {} AS t WHERE {}").format(
            sql.SQL(what).format(**names), self._item(), sql.SQL(test).format(**names)
        )
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())

    def _cast(self, ours: str) -> sql.Composable:
        return sql.SQL(_CASTS[self.map.kind_of(ours)]).format(self.column(ours))

    def column(self, ours: str) -> sql.Composable:
        return sql.Identifier("t", _doubled(self.map.theirs(ours)))

    def _item(self) -> sql.Composable:
        if self.query is not None:  # on lines of its own: it may end in a comment
            return sql.SQL(f"(\n{_doubled(self.query.strip().rstrip(';'))}\n)")
        assert self.table is not None
        return sql.Identifier(*(_doubled(part) for part in self.table.split(".")))

    def to_bars(self, rows: list[tuple[Any, ...]], names: list[str], kind: TimeKind) -> pl.DataFrame:
        """Rows of a cursor with columns of ours, not yet validated."""
        kinds = {"text": pl.String, "integer": pl.Int64, "number": pl.Float64}
        types: dict[str, Any] = {name: kinds[self.map.kind_of(name)] for name in names}
        types["timestamp"] = pl.Float64 if kind == "double precision" else pl.Int64
        columns = zip(names, zip(*rows, strict=True), strict=True)
        frame = pl.DataFrame([pl.Series(name, values, dtype=types[name]) for name, values in columns])
        if kind in _CALENDAR:
            time = pl.col("timestamp").cast(pl.Datetime("us"))
            shapes = {"timestamptz": time.dt.replace_time_zone("UTC"), "date": time.dt.date(), "timestamp": time}
            frame = frame.with_columns(shapes[kind])
        if self.symbol is not None:
            frame = frame.with_columns(symbol=pl.lit(self.symbol))
        return replace(self.map, columns={}).to_ours(frame, where=self.where)


def read_partition(
    address: SecretStr, relation: Relation, columns: Mapping[str, int], shared: str, part: Partition, backoff: Backoff
) -> Iterator[pl.DataFrame]:
    """Yield a partition's bars in batches of `relation.batch_rows`, sorted by symbol and time.

    Memory: one batch. A lost connection is opened again as `backoff` says, in snapshot `shared`.

    Raises: SourceError: the connection was lost too often, or the snapshot is gone. SchemaError: a value is no number.
    """
    kind = relation.time_kind(columns)
    keys = KEYS[relation.map.rows]
    after: dict[str, Any] | None = None
    failures = 0
    while True:
        try:
            with snapshot(address, shared) as (connection, _):
                cursor = connection.cursor(
                    "quantfleet"
                )  # ends with its connection: closing it would be one more request
                cursor.execute(*relation.select(columns, kind, part, after))
                while rows := cursor.fetchmany(relation.batch_rows):
                    names = [column.name for column in cursor.description]
                    last, failures = dict(zip(names, rows[-1], strict=True)), 0
                    after = {name: last.get(name) for name in keys}
                    yield relation.to_bars(rows, names, kind)
            return
        except psycopg2.Error as error:
            if not _lost(error):
                raise translated(error, relation.where) from error
            failures += 1
            decision = backoff.decide(failures=failures, asked_s=None, jitter=random.random())  # noqa: S311 - no secret
            if isinstance(decision, GiveUp):
                raise SourceError(
                    f"{relation.where}: the connection {decision.why}: {one_line(str(error))} What was read before is "
                    "kept; run it again.",
                    failures=failures,
                ) from error
            _log.warning("sql.reconnect", source=relation.where, failures=failures, cause=one_line(str(error)))
            time.sleep(decision.seconds)


@contextlib.contextmanager
def snapshot(address: SecretStr, shared: str | None = None) -> Iterator[tuple[Any, str]]:
    """A read-only connection in one snapshot of the database, and the snapshot's name.

    Args:
        shared: the name of a snapshot whose first connection is still open; a new one when None.
    Raises: ConfigError: the address cannot be understood. psycopg2.Error: whatever the server says.
    """
    connection = psycopg2.connect(_understood(address), application_name="quantfleet", **_LINK)
    try:
        connection.set_session(isolation_level=psycopg2.extensions.ISOLATION_LEVEL_REPEATABLE_READ, readonly=True)
        with connection.cursor() as cursor:
            if shared is not None:
                cursor.execute("SET TRANSACTION SNAPSHOT %s", (shared,))
            # One clock; no limit on waiting for a slow consumer; and plans for the whole result, not for its first rows.
            cursor.execute(
                "SET LOCAL TIME ZONE 'UTC'; SET LOCAL idle_in_transaction_session_timeout = 0;"
                "SET LOCAL cursor_tuple_fraction = 1.0"
            )
            if shared is None:
                cursor.execute("SELECT pg_export_snapshot()")
                shared = cursor.fetchone()[0]
        yield connection, str(shared)
    finally:
        connection.close()


def _understood(address: SecretStr) -> str:
    """The address, checked here: libpq's own errors repeat pieces of what it cannot read, and that may be the password."""
    try:
        parts = psycopg2.extensions.parse_dsn(address.get_secret_value())
    except psycopg2.ProgrammingError:
        parts = {}
    if not parts or "@" in parts.get("host", "") or not parts.get("port", "5432").isdigit():
        raise ConfigError(
            "the database's address is not postgresql://user:password@host:port/database. Signs such as @, : and / in "
            "the password are written as %40, %3A and %2F."
        ) from None
    return address.get_secret_value()


def translated(error: psycopg2.Error, where: str) -> SourceError | SchemaError:
    """What the server says as an error of ours."""
    said, code = one_line(str(error)), error.pgcode or ""
    if code == psycopg2.errorcodes.INVALID_PARAMETER_VALUE and "snapshot" in said:
        return SourceError(f"{where}: the snapshot ended because its first connection was lost; run it again. {said}")
    if code in (psycopg2.errorcodes.INVALID_TEXT_REPRESENTATION, psycopg2.errorcodes.CANNOT_COERCE):
        return SchemaError(f"{where}: a value or column is no number: {said}")
    return SourceError(f"{where}: {said}", code=code)


def _as_stored(value: Any, kind: TimeKind) -> Any:
    """A time as a cursor delivered it, as a value to compare the column with."""
    if kind not in _CALENDAR:
        return value
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=value)
    return {"timestamptz": moment, "timestamp": moment.replace(tzinfo=None), "date": moment.date()}[kind]


def _lost(error: psycopg2.Error) -> bool:
    """Whether the connection broke, as opposed to the server refusing a statement."""
    if isinstance(error, psycopg2.InterfaceError):
        return True
    return isinstance(error, psycopg2.OperationalError) and (
        error.pgcode is None or error.pgcode.startswith(("08", "57P"))
    )


def _doubled(text: str) -> str:
    """A % in a name or a query is meant as it stands; psycopg2 would take it for a parameter."""
    return text.replace("%", "%%")
