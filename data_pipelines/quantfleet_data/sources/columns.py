"""From a vendor's columns to ours: names, types and, above all, the time zone of its timestamps."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl
import pyarrow as pa

from quantfleet.contracts import (
    BAR_COLUMNS,
    BOOK_COLUMNS,
    FUNDING_COLUMNS,
    OPTIONAL_BARS_SCHEMA,
    TRADE_COLUMNS,
    RawRows,
    validate_bars,
    validate_book,
    validate_funding,
    validate_trades,
)
from quantfleet.errors import ConfigError, SchemaError, TimeError, nearest

__all__ = ["NOUNS", "REQUIRED_COLUMNS", "VALIDATE", "ColumnMap", "TimeUnit"]

TimeUnit = Literal["s", "ms", "us", "ns"]
_US: dict[TimeUnit, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
REQUIRED_COLUMNS: Mapping[RawRows, tuple[str, ...]] = {
    "bars": BAR_COLUMNS,
    "trades": TRADE_COLUMNS,
    "book": BOOK_COLUMNS,
    "funding": FUNDING_COLUMNS,
}
"""What a source of such rows delivers; times apart, and those of `_MAY_LACK`, a vendor has all of them."""
VALIDATE = {"bars": validate_bars, "trades": validate_trades, "book": validate_book, "funding": validate_funding}
NOUNS = {"bars": "bars", "trades": "trades", "book": "book messages", "funding": "funding rates"}
_OPTIONAL: Mapping[RawRows, tuple[str, ...]] = {"bars": tuple(OPTIONAL_BARS_SCHEMA.names)}
_MAY_LACK = {"volume": pl.Float64, "side": pl.String, "interval_h": pl.Float64}
"""Columns that become null where a vendor has none; a book without sides is refused later."""
_TEXTS, _INTEGERS = ("symbol", "trade_id", "side", "kind"), ("sequence",)
_FIRST_EPOCH = dt.datetime(1971, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnMap:
    """How to read a vendor's table. A column of theirs without an entry keeps its name."""

    rows: RawRows = "bars"
    """What its rows are, and so which columns are ours."""
    columns: dict[str, str] = field(default_factory=dict)
    """Theirs to ours, e.g. {"Date": "timestamp", "Adj Close": "close"}; what it names wins over an equal name."""
    time_zone: str | None = None
    """IANA zone of timestamps that carry none; None leaves them naive, which is refused later."""
    time_unit: TimeUnit | None = None
    """Unit of timestamps that are numbers: since 1970, UTC."""
    time_format: str | None = None
    """strftime format of timestamps that are text, e.g. "%d.%m.%Y %H:%M"."""

    def __post_init__(self) -> None:
        for theirs, ours in self.columns.items():
            if ours not in self.ours:
                raise ConfigError(
                    f"columns maps {theirs!r} to {ours!r}, which is none of ours.{nearest(ours, self.ours)} It goes "
                    f"from theirs to ours: {', '.join(self.ours)}.",
                )
        if len(set(self.columns.values())) != len(self.columns):
            raise ConfigError(f"columns maps two columns to one of ours: {self.columns}.")
        if self.time_zone is not None:
            try:
                zoneinfo.ZoneInfo(self.time_zone)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
                raise ConfigError(
                    f"time_zone={self.time_zone!r} is no IANA zone such as UTC or America/New_York."
                    f"{nearest(self.time_zone, zoneinfo.available_timezones())}"
                ) from None

    @property
    def ours(self) -> tuple[str, ...]:
        """Every column of ours that may be there."""
        return (*REQUIRED_COLUMNS[self.rows], *_OPTIONAL.get(self.rows, ()))

    @property
    def lacking(self) -> tuple[str, ...]:
        """Columns of ours that become null where they are missing."""
        return tuple(name for name in REQUIRED_COLUMNS[self.rows] if name in _MAY_LACK)

    @staticmethod
    def kind_of(ours: str) -> Literal["text", "integer", "number"]:
        """What a column of ours other than `timestamp` holds."""
        return "text" if ours in _TEXTS else "integer" if ours in _INTEGERS else "number"

    def csv_types(self) -> dict[str, pa.DataType]:
        """Types of their columns in a text file, by their names; times are left to the parser unless `time_format` is set."""
        types: dict[str, pa.DataType] = {}
        for name in self.ours:
            if name == "timestamp":
                if self.time_format is not None:
                    types[self.theirs(name)] = pa.string()
                continue
            kinds = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64()}
            types[self.theirs(name)] = kinds[self.kind_of(name)]
        return types

    def theirs(self, ours: str) -> str:
        """The name of our column in their table."""
        return next((name for name, target in self.columns.items() if target == ours), ours)

    def wanted(self, present: Sequence[str], *, where: str) -> list[str]:
        """Those of their columns that are ours.

        Raises: SchemaError: `columns` names one that they do not have.
        """
        for name in self.columns:
            if name not in present:
                raise SchemaError(
                    f"{where} has no column {name!r}, which `columns` maps to "
                    f"{self.columns[name]!r}.{nearest(name, present)} It has: {', '.join(present)}.",
                    column=name,
                )
        return [name for ours in self.ours if (name := self.theirs(ours)) in present]

    def to_ours(self, table: pl.DataFrame, *, where: str) -> pl.DataFrame:
        """Rename the columns and bring the timestamps to a time zone. Rows stay as they are, in their order.

        A missing volume becomes null, since indices and currencies have none (so do a trade's side and the hours of a
        funding rate); any other missing column is left for the table's validation to report. A calendar date stands for
        itself at 00:00 UTC, as daily bars are labelled.

        Raises: TimeError: timestamps that cannot be read, or that the zone's clock change makes doubtful.
        """
        bars = table.select(
            pl.col(self.theirs(ours)).alias(ours) for ours in self.ours if self.theirs(ours) in table.columns
        )
        absent = [name for name in self.lacking if name not in bars.columns]
        bars = bars.with_columns(pl.lit(None, dtype=_MAY_LACK[name]).alias(name) for name in absent)
        return bars.with_columns(self.moments(bars["timestamp"], where)) if "timestamp" in bars.columns else bars

    def moments(self, times: pl.Series, where: str) -> pl.Series:
        """Times with a zone, out of dates, texts, numbers or naive times; naive ones stay so without `time_zone`.

        Raises: TimeError: as `to_ours`.
        """
        if times.dtype.is_numeric():
            return self._from_numbers(times, where)
        if times.dtype == pl.String and self.time_format is not None:
            try:
                times = times.str.to_datetime(self.time_format, time_unit="us")
            except pl.exceptions.PolarsError as error:
                raise TimeError(
                    f"{where}: timestamps do not follow time_format={self.time_format!r}: {_first_line(error)}"
                ) from error
        if times.dtype == pl.String:
            raise TimeError(
                f"{where}: timestamps are text such as {times.drop_nulls().first()!r}; set `time_format`, e.g. "
                "'%Y-%m-%d %H:%M:%S'."
            )
        if times.dtype == pl.Date:
            return times.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        if isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is None and self.time_zone is not None:
            try:
                return times.dt.replace_time_zone(self.time_zone)
            except pl.exceptions.PolarsError as error:
                raise TimeError(
                    f"{where}: {self.time_zone} changed its clocks, so a time is ambiguous or never was: "
                    f"{_first_line(error)}. Export the data in UTC."
                ) from error
        return times

    def _from_numbers(self, times: pl.Series, where: str) -> pl.Series:
        if self.time_unit is None:
            raise TimeError(
                f"{where}: timestamps are numbers such as {times.first()!r}; set `time_unit` to s, ms, us or ns (since "
                "1970, UTC), or `time_format` when they are dates such as 20200131."
            )
        if times.dtype.is_float():
            micros = (times * _US[self.time_unit]).round(0).cast(pl.Int64)
        elif self.time_unit == "ns":
            micros = times.cast(pl.Int64) // 1000
        else:
            micros = times.cast(pl.Int64) * int(_US[self.time_unit])
        moments = micros.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        if not moments.is_empty() and (moments < _FIRST_EPOCH).all():
            raise TimeError(
                f"{where}: {times.first()!r} and all other timestamps lie before 1971 when read in {self.time_unit}; "
                "time_unit is wrong."
            )
        return moments


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")
