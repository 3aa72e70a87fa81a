"""Instruments out of files of any vendor: columns mapped, constants added, times brought to UTC. Or out of bars."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import polars as pl
import pyarrow as pa

from quantfleet.contracts import Timeframe
from quantfleet.contracts.instrument import (
    ACTIONS_SCHEMA,
    INSTRUMENTS_SCHEMA,
    MEMBERSHIPS_SCHEMA,
    validate_instruments,
)
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError, nearest
from quantfleet.storage import StorageConfig
from quantfleet_data.instruments.base import Instruments
from quantfleet_data.sources.columns import ColumnMap, TimeUnit
from quantfleet_data.sources.layout import Format, find_files
from quantfleet_data.sources.tables import VendorTable

__all__ = ["InstrumentFile", "InstrumentsConfig", "listings_from_bars", "load_instruments"]

_ENDS = ("delisted_at", "end")


@dataclass(frozen=True, kw_only=True, slots=True)
class InstrumentFile:
    """Files of listings, memberships or actions, with the vendor's columns mapped to ours."""

    path: str
    """A file, folder, glob, zip or Delta table, as the source `files` takes."""
    format: Literal["auto"] | Format = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    """Theirs to ours, e.g. {"Ticker": "symbol", "date_added": "start"}. A column of theirs that has our name needs no
    entry; their other columns are left."""
    constants: dict[str, str] = field(default_factory=dict)
    """Ours, for columns that the files do not have, e.g. {"index": "SP500"} or {"asset_class": "equity", "quote": "USD"}."""
    end_is_last_day: bool = False
    """Whether `end` and `delisted_at` are the last day on which it was so, and not the first on which it was no longer."""
    time_zone: str | None = None
    """Zone of times that carry none; calendar dates need none."""
    time_unit: TimeUnit | None = None
    time_format: str | None = None
    """strftime format of times that are text or numbers such as 20200131."""
    storage: StorageConfig | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("path is empty; name a file, a folder, a glob or a Delta table.")
        twice = [ours for ours in self.constants if ours in self.columns.values()]
        if twice or len(set(self.columns.values())) != len(self.columns):
            raise ConfigError(f"columns and constants name one of ours twice: {self.columns} {self.constants}.")
        _ = self.clock  # checks itself

    @property
    def clock(self) -> ColumnMap:
        return ColumnMap(time_zone=self.time_zone, time_unit=self.time_unit, time_format=self.time_format)


@dataclass(frozen=True, kw_only=True, slots=True)
class InstrumentsConfig:
    """Where listings, index memberships and corporate actions come from; several files add up."""

    listings: tuple[InstrumentFile, ...] = ()
    memberships: tuple[InstrumentFile, ...] = ()
    actions: tuple[InstrumentFile, ...] = ()
    adjust: Literal["forward", "none"] = "forward"
    """forward: the bars of every later stage are multiplied by the splits and swaps up to them, each counting from when it
    was in effect and announced, so that no later action changes an earlier bar. none: bars as ingested. Quality inspects
    bars as ingested either way.
    """
    dividends: bool = False
    """With adjust forward, whether cash dividends are reinvested, too: total return."""

    def __post_init__(self) -> None:
        if not (self.listings or self.memberships or self.actions):
            raise ConfigError("instruments names no file; give listings, memberships or actions.")
        if self.dividends and self.adjust == "none":
            raise ConfigError(
                "instruments.dividends=true needs adjust: forward; adjust: none leaves the bars as they are."
            )


def load_instruments(config: InstrumentsConfig) -> Instruments:
    """Read and validate instruments. All of it is held in memory: some hundred bytes per row.

    Raises: SourceError: there is no such file. SchemaError, TimeError, DataError: its rows break the contract; says which.
    """
    tables = {}
    for name, schema in (
        ("listings", INSTRUMENTS_SCHEMA),
        ("memberships", MEMBERSHIPS_SCHEMA),
        ("actions", ACTIONS_SCHEMA),
    ):
        frames = [_read(file, schema) for file in getattr(config, name)]
        if frames:
            tables[name] = pl.concat(frames, how="diagonal_relaxed")
    return Instruments(**tables)


def _read(file: InstrumentFile, schema: pa.Schema) -> pl.DataFrame:
    where = f"instruments file {file.path}"
    for ours in (*file.columns.values(), *file.constants):
        if ours not in schema.names:
            raise ConfigError(
                f"{where}: {ours!r} is none of ours.{nearest(ours, schema.names)} Ours: {', '.join(schema.names)}."
            )
    layout = find_files(file.path, file.storage, file.format)
    texts = [_theirs(file, field.name) for field in schema if pa.types.is_string(field.type)]
    symbol = ColumnMap(columns={theirs: ours for theirs, ours in file.columns.items() if ours == "symbol"})
    frames = []
    for name in layout.files:
        table = VendorTable(layout, name, symbol, texts=texts)
        for theirs in file.columns:
            if theirs not in table.columns:
                raise SchemaError(
                    f"{where} has no column {theirs!r}.{nearest(theirs, table.columns)} It has: {', '.join(table.columns)}.",
                    column=theirs,
                )
        wanted = {theirs: ours for ours in schema.names if (theirs := _theirs(file, ours)) in table.columns}
        frame = pl.from_arrow(table.read(list(wanted)))
        assert isinstance(frame, pl.DataFrame)
        frames.append(frame.rename(wanted))
    rows = pl.concat(frames, how="diagonal_relaxed")
    rows = rows.with_columns(
        pl.lit(value).alias(ours) for ours, value in file.constants.items() if ours not in rows.columns
    )
    for column in schema:
        if column.name not in rows.columns:
            continue
        if pa.types.is_string(column.type) and column.nullable:
            rows = rows.with_columns(pl.col(column.name).replace("", None))
        elif pa.types.is_timestamp(column.type):
            times = _moments(rows[column.name], file, where)
            last_day = file.end_is_last_day and column.name in _ENDS
            rows = rows.with_columns((times + dt.timedelta(days=1) if last_day else times).alias(column.name))
    return rows


def _theirs(file: InstrumentFile, ours: str) -> str:
    return next((name for name, target in file.columns.items() if target == ours), ours)


def _moments(times: pl.Series, file: InstrumentFile, where: str) -> pl.Series:
    if times.dtype == pl.Null:
        return times.cast(pl.Datetime("us", "UTC"))
    if times.dtype == pl.String:
        times = times.replace("", None)
    if file.time_format is not None and times.dtype.is_integer():
        times = times.cast(pl.String)
    return file.clock.moments(times, where)


def listings_from_bars(
    bars: Iterable[pl.DataFrame],
    timeframe: Timeframe,
    *,
    asset_class: str,
    quote: str,
    grace: dt.timedelta = dt.timedelta(days=7),
) -> pl.DataFrame:
    """Listings as far as bars tell them: a symbol was listed from its first bar to the end of its last.

    One that begins within `grace` of the first bar of all was there before (`listed_at` is null), and one that ends within
    `grace` of the last bar of all is there still. A guess for data without a calendar of listings: a vendor's list is better,
    a reused ticker looks like one long listing, and a halt at the end looks like a delisting.

    Args:
        bars: blocks with symbol and timestamp, in any order.
    Returns: what `Instruments.listings` takes.
    """
    spans = [
        block.group_by("symbol").agg(first=pl.col("timestamp").min(), last=pl.col("timestamp").max()) for block in bars
    ]
    if not spans or all(span.is_empty() for span in spans):
        raise EmptyTableError("there are no bars to tell listings from.")
    whole = pl.concat(spans).group_by("symbol").agg(pl.col("first").min(), pl.col("last").max())
    start, end = whole["first"].min(), whole["last"].max()
    listings = whole.select(
        "symbol",
        asset_class=pl.lit(asset_class),
        quote=pl.lit(quote),
        listed_at=pl.when(pl.col("first") > pl.lit(start) + grace).then("first"),
        delisted_at=pl.when(pl.col("last") < pl.lit(end) - grace).then(pl.col("last") + timeframe.delta),
    )
    return validate_instruments(listings, where="listings from bars")
