"""What every table contract checks alike: columns there, of their type, in UTC, no empty keys, symbols together in time.

`where` names the table in messages ("file trades.parquet"), `noun` its rows ("trades").
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from quantfleet.errors import EmptyTableError, PriceError, SchemaError, TimeError, nearest

__all__ = ["check_numbers", "check_time_order", "describe_row", "typed_columns"]

_TYPES = {"number": pl.Float64, "integer": pl.Int64, "text": pl.String}


def typed_columns(
    frame: pl.DataFrame,
    *,
    where: str,
    noun: str,
    text: Sequence[str],
    numbers: Sequence[str],
    integers: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> pl.DataFrame:
    """Return `frame` with its columns cast: text, `timestamp` to UTC microseconds, float64, int64; others untouched.

    Args:
        optional: columns that may hold nulls; every other one named must not.
    Raises:
        EmptyTableError: no rows.
        SchemaError: a column is missing, of the wrong type, or null where it may not be.
        TimeError: `timestamp` is not a date and time, or is naive.
    """
    kinds = {**dict.fromkeys(text, "text"), **dict.fromkeys(numbers, "number"), **dict.fromkeys(integers, "integer")}
    for name in (*kinds, "timestamp"):
        if name not in frame.columns:
            raise SchemaError(
                f"{where} has no column {name!r}.{nearest(name, frame.columns)} It has: {', '.join(frame.columns)}. "
                "Map its columns with `columns:` in the source's config.",
                column=name,
            )
    if frame.is_empty():
        raise EmptyTableError(f"{where} holds no {noun}. Check the symbols and the time range asked for.")
    stamp = frame.schema["timestamp"]
    if not isinstance(stamp, pl.Datetime):
        raise TimeError(
            f"{where}: column 'timestamp' is {stamp}, not a date and time with a time zone. Convert it at the source, or "
            "name its format in the source's config.",
            column="timestamp",
        )
    if stamp.time_zone is None:
        raise TimeError(
            f"{where}: timestamps are naive (column 'timestamp' has no time zone), first {describe_row(frame)}. Quantfleet keeps "
            "UTC only; say which zone they are in, e.g. `time_zone: UTC` in the source's config.",
            column="timestamp",
        )
    for name, kind in kinds.items():
        given = frame.schema[name]
        fits = {
            "text": not given.is_nested(),
            "number": given.is_numeric() or given == pl.Null,
            "integer": given.is_integer(),
        }[kind]
        if not fits:
            raise SchemaError(
                f"{where}: column {name!r} is {given}, not a{'n' if kind == 'integer' else ''} {kind}. Convert it at the source, "
                "or map another column to it with `columns:`.",
                column=name,
            )
    frame = frame.with_columns(
        pl.col("timestamp").dt.convert_time_zone("UTC").dt.cast_time_unit("us"),
        *(pl.col(name).cast(_TYPES[kind]) for name, kind in kinds.items()),
    )
    for name in ("timestamp", *kinds):
        if name not in optional and (empty := frame[name].null_count()):
            raise SchemaError(
                f"{where}: {name} is null in {empty} rows (column {name!r}); every row of {noun} needs it. Drop or mend them at "
                "the source.",
                column=name,
                rows=empty,
            )
    return frame


def check_numbers(frame: pl.DataFrame, name: str, *, where: str, zero: bool = False) -> None:
    """Check that a column is finite and positive, or not negative where `zero` is allowed; nulls pass.

    Raises: PriceError: it is not; the first such row is named.
    """
    value = pl.col(name)
    fine = value.is_finite() & ((value >= 0) if zero else (value > 0))
    bad = frame.filter(value.is_not_null() & ~fine)
    if not bad.is_empty():
        raise PriceError(
            f"{where}: {bad.height} rows have {name} {'negative' if zero else 'not positive'}, NaN or infinite, first "
            f"{describe_row(bad, name)}. Drop or mend them at the source.",
            column=name,
            rows=bad.height,
        )


def check_time_order(frame: pl.DataFrame, *, where: str) -> None:
    """Check that rows of a symbol are together and never step back in time; equal timestamps are fine.

    Raises: TimeError: the first offending row is named.
    """
    symbol, time = frame["symbol"], frame["timestamp"]
    same = symbol == symbol.shift(1)
    backwards = frame.filter((same & (time < time.shift(1))).fill_null(False))
    if not backwards.is_empty():
        raise TimeError(
            f"{where}: timestamps are not sorted, first step back at {describe_row(backwards)}. Sort by symbol and time.",
            column="timestamp",
            rows=backwards.height,
        )
    starts = frame.filter(~same.fill_null(False))
    again = starts.filter(~starts["symbol"].is_first_distinct())
    if not again.is_empty():
        raise TimeError(
            f"{where}: rows of one symbol are not together, {describe_row(again)} comes after another symbol. Sort by "
            "symbol and time.",
            column="symbol",
        )


def describe_row(rows: pl.DataFrame, *columns: str) -> str:
    """The first row for a message: "BTC/USDT 2024-01-01 00:00:00+00:00 price=-1.0"."""
    key = f"{rows['symbol'][0]} {rows['timestamp'][0]}"
    return " ".join([key, *(f"{name}={rows[name][0]}" for name in columns)])
