"""The bars contract: what a table of bars holds, and the one place that checks it.

`timestamp` is the bar's open, UTC, microseconds. A bar is known at `timestamp + timeframe`. Daily bars carry the
exchange's date at 00:00 UTC as a label.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from quantfleet.contracts.columns import check_numbers, check_time_order, describe_row, typed_columns
from quantfleet.errors import PriceError, TimeError

__all__ = ["BARS_SCHEMA", "BAR_COLUMNS", "OPTIONAL_BARS_SCHEMA", "PRICE_COLUMNS", "VALUE_COLUMNS", "validate_bars"]

PRICE_COLUMNS = ("open", "high", "low", "close")
VALUE_COLUMNS = (*PRICE_COLUMNS, "volume")
BAR_COLUMNS = ("symbol", "timestamp", *VALUE_COLUMNS)
"""What a source delivers; `source` and `ingested_at` are added on ingest."""

_UTC_US = pa.timestamp("us", tz="UTC")
BARS_SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("timestamp", _UTC_US, nullable=False),
        *(pa.field(name, pa.float64()) for name in VALUE_COLUMNS),
        pa.field("source", pa.string(), nullable=False),
        pa.field("ingested_at", _UTC_US, nullable=False),
    ]
)
OPTIONAL_BARS_SCHEMA = pa.schema([pa.field("prev_adj_close", pa.float64())])
"""Columns that some sources deliver; a table has them from the first row on that does.

prev_adj_close: the previous bar's close on the scale of this bar, as its source published it with this bar, so that it
    knows of no later split. Quality tells splits from crashes by it; features never see it.
"""


def validate_bars(bars: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Check bars at a boundary and return them with the contract's columns, types and order.

    Args:
        bars: at least BAR_COLUMNS; rows of a symbol together and sorted by time, one row per pair. `volume` may be null
            (indices and FX have none).
        where: what to call the table in messages, e.g. "file bars.parquet".
    Returns: columns BAR_COLUMNS and those of OPTIONAL_BARS_SCHEMA that are there, timestamps in UTC microseconds, values
        float64.
    Raises:
        EmptyTableError: no rows.
        SchemaError: a column is missing or of the wrong type, a symbol or timestamp is null.
        TimeError: timestamps naive, unsorted or duplicated.
        PriceError: a price is null, NaN, infinite or not positive; a volume is NaN, infinite or negative; an optional
            price is NaN, infinite or not positive.
    """
    extra = [name for name in OPTIONAL_BARS_SCHEMA.names if name in bars.columns]
    numbers = (*VALUE_COLUMNS, *extra)
    bars = typed_columns(bars, where=where, noun="bars", text=("symbol",), numbers=numbers, optional=numbers).select(
        *BAR_COLUMNS, *extra
    )
    again = (bars["symbol"] == bars["symbol"].shift(1)) & (bars["timestamp"] == bars["timestamp"].shift(1))
    repeated = bars.filter(again.fill_null(False))
    if not repeated.is_empty():
        raise TimeError(
            f"{where}: {repeated.height} duplicated timestamps, first {describe_row(repeated)}. Keep one row per symbol "
            "and time.",
            column="timestamp",
            rows=repeated.height,
        )
    check_time_order(bars, where=where)
    for name in PRICE_COLUMNS:
        bad = bars.filter(~(pl.col(name).is_finite() & (pl.col(name) > 0)).fill_null(False))
        if not bad.is_empty():
            raise PriceError(
                f"{where}: {bad.height} rows have a {name} that is NaN, null, infinite or not positive, first "
                f"{describe_row(bad, name)}. Drop or mend them at the source.",
                column=name,
                rows=bad.height,
            )
    bad = bars.filter(pl.col("volume").is_not_null() & ~(pl.col("volume").is_finite() & (pl.col("volume") >= 0)))
    if not bad.is_empty():
        raise PriceError(
            f"{where}: {bad.height} rows have a volume that is NaN, infinite or negative, first {describe_row(bad, 'volume')}. "
            "Use null where a market has no volume.",
            column="volume",
            rows=bad.height,
        )
    for name in extra:
        check_numbers(bars, name, where=where)
    return bars
