"""The lake's raw tables: bars, trades, book messages, funding rates. One description each; one path writes them all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import polars as pl
import pyarrow as pa

from quantfleet.contracts import (
    BARS_SCHEMA,
    BOOK_SCHEMA,
    FUNDING_SCHEMA,
    OPTIONAL_BARS_SCHEMA,
    TRADES_SCHEMA,
    FetchRequest,
    Timeframe,
    validate_bars,
    validate_book,
    validate_funding,
    validate_trades,
)
from quantfleet.errors import SchemaError, TimeError
from quantfleet_data.sources.clock import as_utc, check_timeframe, closed_bars

__all__ = ["TABLES", "RawTable", "bars_path"]


class _Validate(Protocol):
    def __call__(self, frame: pl.DataFrame, /, *, where: str) -> pl.DataFrame: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RawTable:
    """What one kind of raw table holds, and what makes two of its rows the same row."""

    name: str
    """What a source `delivers`, and its folder in the lake."""
    noun: str
    """Its rows in messages."""
    schema: pa.Schema
    keys: tuple[str, ...]
    """With the source, what names a row; begins with symbol and timestamp."""
    shown: str
    """The value that a message about a correction shows."""
    validate: _Validate
    checks: Callable[[pl.DataFrame, FetchRequest, str], None]
    """What else a batch must fulfil at the time of the request; gets it validated, and what to call its source."""
    optional: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """Columns that only some sources deliver; a table gets them with the first rows that have them."""
    of_timeframe: bool = False
    """Whether there is one such table per timeframe; then rows lie on a grid, and holes can be seen."""

    @property
    def values(self) -> tuple[str, ...]:
        """The columns that a correction may change, without the optional ones."""
        return tuple(n for n in self.schema.names if n not in (*self.keys, "source", "ingested_at"))

    def path(self, timeframe: str) -> str:
        """Path under the storage root, e.g. lake/bars/1d or lake/trades. Raises: ConfigError: no timeframe."""
        return f"lake/{self.name}/{Timeframe(timeframe)}" if self.of_timeframe else f"lake/{self.name}"

    def step(self, timeframe: Timeframe) -> dt.timedelta | None:
        """Time between rows without a hole; None when that says nothing."""
        return timeframe.delta if self.of_timeframe else None

    def checked(self, batch: pl.DataFrame, request: FetchRequest, source: str) -> pl.DataFrame:
        """Validate a batch of a source.

        Raises: DataError: it breaks the table's contract, or what the source was asked for; the source is named.
        """
        where = f"source {source!r}"
        rows = self.validate(batch, where=where)
        if (rows["symbol"] == "").any():
            raise SchemaError(f"{where}: the symbol is an empty text in some rows.", column="symbol")
        self.checks(rows, request, where)
        return rows


def _closed_on_their_timeframe(bars: pl.DataFrame, request: FetchRequest, where: str) -> None:
    check_timeframe(bars, request.timeframe, where=where)
    closed = closed_bars(bars, request.timeframe, request.now_utc).height
    if closed < bars.height:
        raise TimeError(
            f"{where}: {bars.height - closed} of {bars.height} bars are still open at {request.now_utc}, the last "
            f"opened {bars['timestamp'].max()!s}. A source delivers closed bars only.",
            rows=bars.height - closed,
        )


_CLOCKS_DIFFER = dt.timedelta(minutes=5)


def _not_of_the_future(rows: pl.DataFrame, request: FetchRequest, where: str) -> None:
    # A stream of snapshots goes on after the request was made, so the clock counts where it is later.
    latest = max(as_utc(request.now_utc), dt.datetime.now(dt.UTC)) + _CLOCKS_DIFFER
    future = rows.filter(pl.col("timestamp") > latest)
    if not future.is_empty():
        raise TimeError(
            f"{where}: {future.height} of {rows.height} rows lie in the future of {latest:%Y-%m-%d %H:%M} UTC, first "
            f"{future['symbol'][0]} {future['timestamp'][0]}. Check the source's unit of time, and this machine's clock.",
            rows=future.height,
        )


TABLES: Mapping[str, RawTable] = {
    "bars": RawTable(
        name="bars",
        noun="bars",
        schema=BARS_SCHEMA,
        keys=("symbol", "timestamp"),
        shown="close",
        validate=validate_bars,
        checks=_closed_on_their_timeframe,
        optional=OPTIONAL_BARS_SCHEMA,
        of_timeframe=True,
    ),
    "trades": RawTable(
        name="trades",
        noun="trades",
        schema=TRADES_SCHEMA,
        keys=("symbol", "timestamp", "trade_id"),
        shown="price",
        validate=validate_trades,
        checks=_not_of_the_future,
    ),
    "book": RawTable(
        name="book",
        noun="book levels",
        schema=BOOK_SCHEMA,
        keys=("symbol", "timestamp", "sequence", "side", "price"),
        shown="amount",
        validate=validate_book,
        checks=_not_of_the_future,
    ),
    "funding": RawTable(
        name="funding",
        noun="funding rates",
        schema=FUNDING_SCHEMA,
        keys=("symbol", "timestamp"),
        shown="rate",
        validate=validate_funding,
        checks=_not_of_the_future,
    ),
}
"""By the name that a source `delivers`."""


def bars_path(timeframe: str) -> str:
    """Path of the bars table of a timeframe under the storage root, e.g. lake/bars/1d.

    Raises: ConfigError: no timeframe.
    """
    return TABLES["bars"].path(timeframe)
