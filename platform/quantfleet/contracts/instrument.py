"""The instruments contract: what was listed when, what was in which index when, and what happened to it.

Every interval is half-open, [start, end): `delisted_at` and `end` are the first moment at which a thing is no longer so,
null while it is. A null `listed_at` means: before all of our data. All times are UTC, microseconds; an exchange's date
stands at 00:00 UTC, as the labels of daily bars do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import polars as pl
import pyarrow as pa

from quantfleet.errors import DataError, SchemaError, TimeError, nearest

__all__ = [
    "ACTIONS_SCHEMA",
    "INSTRUMENTS_SCHEMA",
    "MEMBERSHIPS_SCHEMA",
    "ActionKind",
    "validate_actions",
    "validate_instruments",
    "validate_memberships",
]

ActionKind = Literal["split", "dividend", "rename", "swap", "merger"]
"""split: `ratio`. dividend: `cash`. rename: `new_symbol`. swap (one token for another): `ratio`, and `new_symbol` when it
changes. merger: `new_symbol` with `ratio`, or `cash`, or both.
"""

_UTC_US = pa.timestamp("us", tz="UTC")


def _schema(required: dict[str, pa.DataType], optional: dict[str, pa.DataType]) -> pa.Schema:
    return pa.schema(
        [
            *(pa.field(name, kind, nullable=False) for name, kind in required.items()),
            *(pa.field(name, kind) for name, kind in optional.items()),
        ]
    )


INSTRUMENTS_SCHEMA = _schema(
    {"symbol": pa.string(), "asset_class": pa.string(), "quote": pa.string()},
    {"listed_at": _UTC_US, "delisted_at": _UTC_US, "tick": pa.float64(), "lot": pa.float64()},
)
"""One row per listing: a ticker that is used again has a row for each company. `tick` is the smallest step of the price
and `lot` of the amount, in units of the quote and of the asset; null where unknown.
"""
MEMBERSHIPS_SCHEMA = _schema({"index": pa.string(), "symbol": pa.string(), "start": _UTC_US}, {"end": _UTC_US})
ACTIONS_SCHEMA = _schema(
    {"symbol": pa.string(), "effective_at": _UTC_US, "kind": pa.string()},
    {"announced_at": _UTC_US, "ratio": pa.float64(), "cash": pa.float64(), "new_symbol": pa.string()},
)
"""`effective_at`: the open of the first bar at the new price. `announced_at`: when it was known; null: not before it took
effect. `ratio`: new units for one old unit (2.0 for a 2-for-1 split, 0.1 for a 1-for-10 one). `cash`: for one old unit,
in the quote's currency.
"""
_NEEDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "split": (("ratio",), ()),
    "dividend": (("cash",), ()),
    "rename": (("new_symbol",), ()),
    "swap": (("ratio",), ("new_symbol",)),
    "merger": ((), ("ratio", "cash", "new_symbol")),
}
"""Per kind of action, the values it needs and those it may have; the others are null."""


def validate_instruments(table: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Check listings at a boundary and return them with the contract's columns, types and order (symbol, then time).

    Args:
        table: at least symbol, asset_class and quote; the other columns may be missing and are then null.
        where: what to call the table in messages.
    Raises:
        SchemaError: a column is missing, unknown or of the wrong type, or a text is empty.
        TimeError: times are naive; an instrument is delisted before it is listed; listings of one symbol overlap.
        DataError: tick or lot is not positive.
    """
    listings = _typed(table, INSTRUMENTS_SCHEMA, where).sort("symbol", "listed_at", nulls_last=False)
    _refuse(
        listings,
        pl.col("delisted_at") <= pl.col("listed_at"),
        lambda row: TimeError(
            f"{where}: {row['symbol']} is delisted at {row['delisted_at']}, not after its listing at {row['listed_at']}. "
            "Intervals are [listed_at, delisted_at)."
        ),
    )
    _refuse_overlaps(listings, ["symbol"], "listed_at", "delisted_at", where)
    for name in ("tick", "lot"):
        _refuse(
            listings,
            ~(pl.col(name).is_finite() & (pl.col(name) > 0)),
            lambda row, name=name: DataError(  # type: ignore[misc]
                f"{where}: {row['symbol']} has {name}={row[name]}; it must be above zero, or null where it is unknown."
            ),
        )
    return listings


def validate_memberships(table: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Check index memberships and return them with the contract's columns, types and order (index, symbol, time).

    Raises: SchemaError, TimeError: as for `validate_instruments`.
    """
    members = _typed(table, MEMBERSHIPS_SCHEMA, where).sort("index", "symbol", "start")
    _refuse(
        members,
        pl.col("end") <= pl.col("start"),
        lambda row: TimeError(
            f"{where}: {row['symbol']} leaves {row['index']} at {row['end']}, not after its start {row['start']}. "
            "Intervals are [start, end)."
        ),
    )
    _refuse_overlaps(members, ["index", "symbol"], "start", "end", where)
    return members


def validate_actions(table: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Check corporate actions and return them with the contract's columns, types and order (symbol, time, kind).

    Raises:
        SchemaError: as for `validate_instruments`.
        DataError: an unknown kind, a value that the kind needs is missing or not positive, or one it must not have; two
            actions of one kind on one symbol at one time.
    """
    actions = _typed(table, ACTIONS_SCHEMA, where).sort("symbol", "effective_at", "kind")
    kinds = get_args(ActionKind)
    _refuse(
        actions,
        ~pl.col("kind").is_in(kinds),
        lambda row: DataError(
            f"{where}: {_of(row)} is of kind {row['kind']!r}.{nearest(str(row['kind']), kinds)} Known: {', '.join(kinds)}."
        ),
    )
    for name in ("ratio", "cash"):
        _refuse(
            actions,
            ~(pl.col(name).is_finite() & (pl.col(name) > 0)),
            lambda row, name=name: DataError(f"{where}: {_of(row)} has {name}={row[name]}; it must be above zero."),  # type: ignore[misc]
        )
    for kind, (needed, allowed) in _NEEDS.items():
        for name in ("ratio", "cash", "new_symbol"):
            missing, banned = name in needed, name not in needed and name not in allowed
            verb = "needs" if missing else "has no"
            test = pl.col(name).is_null() if missing else pl.col(name).is_not_null()
            if missing or banned:
                _refuse(
                    actions,
                    (pl.col("kind") == kind) & test,
                    lambda row, verb=verb, name=name: DataError(  # type: ignore[misc]
                        f"{where}: {_of(row)} is a {row['kind']}, which {verb} `{name}`."
                    ),
                )
    _refuse(
        actions,
        (pl.col("kind") == "merger")
        & pl.col("cash").is_null()
        & (pl.col("ratio").is_null() | pl.col("new_symbol").is_null()),
        lambda row: DataError(f"{where}: {_of(row)} is a merger, which needs `cash`, or `ratio` and `new_symbol`."),
    )
    _refuse(
        actions,
        pl.col("new_symbol") == pl.col("symbol"),
        lambda row: DataError(f"{where}: {_of(row)} leads from {row['symbol']} to itself."),
    )
    _refuse(
        actions,
        pl.struct("symbol", "effective_at", "kind").is_duplicated(),
        lambda row: DataError(f"{where}: {_of(row)}: two of kind {row['kind']} at one time; make one of them."),
    )
    return actions


def _of(row: dict[str, object]) -> str:
    return f"the action of {row['symbol']} at {row['effective_at']}"


def _typed(table: pl.DataFrame, schema: pa.Schema, where: str) -> pl.DataFrame:
    names = schema.names
    for name in table.columns:
        if name not in names:
            raise SchemaError(f"{where}: unknown column {name!r}.{nearest(name, names)} Known: {', '.join(names)}.")
    columns = []
    for field in schema:
        name = field.name
        if name not in table.columns:
            if not field.nullable:
                raise SchemaError(
                    f"{where} has no column {name!r}.{nearest(name, table.columns)} It has: {', '.join(table.columns)}.",
                    column=name,
                )
            columns.append(pl.lit(None, dtype=_polars(field.type)).alias(name))
            continue
        found = table.schema[name]
        if pa.types.is_timestamp(field.type):
            if isinstance(found, pl.Datetime) and found.time_zone is None:
                raise TimeError(f"{where}: times in {name!r} are naive; Quantfleet keeps UTC only.", column=name)
            if not isinstance(found, pl.Datetime) and found != pl.Null:
                raise SchemaError(f"{where}: column {name!r} is {found}, not a date and time with a zone.", column=name)
        elif pa.types.is_floating(field.type) and not (found.is_numeric() or found == pl.Null):
            raise SchemaError(f"{where}: column {name!r} is {found}, not a number.", column=name)
        elif pa.types.is_string(field.type) and found.is_nested():
            raise SchemaError(f"{where}: column {name!r} is {found}, not a text.", column=name)
        column = pl.col(name)
        if isinstance(found, pl.Datetime):
            column = column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
        columns.append(column.cast(_polars(field.type)))
    typed = table.select(columns)
    for field in schema:
        empty = typed[field.name].null_count() if not field.nullable else 0
        if pa.types.is_string(field.type):
            empty += int((typed[field.name] == "").sum())
        if empty:
            raise SchemaError(
                f"{where}: column {field.name!r} is empty in {empty} rows.", column=field.name, rows=empty
            )
    return typed


def _polars(kind: pa.DataType) -> pl.DataType:
    if pa.types.is_timestamp(kind):
        return pl.Datetime("us", "UTC")
    return pl.Float64() if pa.types.is_floating(kind) else pl.String()


def _refuse(table: pl.DataFrame, bad: pl.Expr, error: Callable[[dict[str, object]], Exception]) -> None:
    """Raise for the first row where `bad` is true (null counts as false)."""
    rows = table.filter(bad.fill_null(False))
    if not rows.is_empty():
        raise error(rows.row(0, named=True))


def _refuse_overlaps(table: pl.DataFrame, keys: list[str], start: str, end: str, where: str) -> None:
    """Refuse rows that begin before the one before them ended; rows are sorted by keys and start."""
    before = table.with_columns(
        _start=pl.col(start).shift(1).over(keys), _end=pl.col(end).shift(1).over(keys)
    ).with_columns(_first=pl.int_range(pl.len()).over(keys) == 0)
    _refuse(
        before,
        ~pl.col("_first") & (pl.col("_end").is_null() | pl.col(start).is_null() | (pl.col(start) < pl.col("_end"))),
        lambda row: TimeError(
            f"{where}: two intervals of {' '.join(str(row[key]) for key in keys)} overlap: [{row['_start']}, {row['_end']}) "
            f"and [{row[start]}, {row[end]}). Join them, or correct one."
        ),
    )
