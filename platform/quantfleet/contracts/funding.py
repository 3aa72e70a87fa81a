"""The funding contract: what holders of a perpetual future pay each other, one row per settlement.

`timestamp` is the time of the settlement at the exchange, UTC, microseconds; the rate is known from then on (a forecast
of it, which exchanges show before, is another thing and not kept here). A positive rate is paid by longs to shorts.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from quantfleet.contracts.columns import check_numbers, check_time_order, describe_row, typed_columns
from quantfleet.errors import PriceError, TimeError

__all__ = ["FUNDING_COLUMNS", "FUNDING_SCHEMA", "validate_funding"]

FUNDING_COLUMNS = ("symbol", "timestamp", "rate", "interval_h")
"""What a source delivers; `source` and `ingested_at` are added on ingest. `rate` is a fraction of the position's value
per settlement (0.0001 is 1 bp), `interval_h` the hours since the settlement before, null where that is not known.
"""

_UTC_US = pa.timestamp("us", tz="UTC")
FUNDING_SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("timestamp", _UTC_US, nullable=False),
        pa.field("rate", pa.float64(), nullable=False),
        pa.field("interval_h", pa.float64()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("ingested_at", _UTC_US, nullable=False),
    ]
)


def validate_funding(funding: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Check funding rates at a boundary and return them with the contract's columns, types and order.

    Args:
        funding: at least FUNDING_COLUMNS; rows of a symbol together and sorted by time, one row per pair.
        where: what to call the table in messages, e.g. "source 'ccxt.bybit'".
    Returns: columns FUNDING_COLUMNS, timestamps in UTC microseconds, numbers float64.
    Raises:
        EmptyTableError: no rows.
        SchemaError: a column is missing or of the wrong type, a value other than `interval_h` is null.
        TimeError: timestamps naive, unsorted or duplicated.
        PriceError: a rate is NaN or infinite, or is no fraction (1 or more either way: a percentage?); an interval is
            not positive.
    """
    funding = typed_columns(
        funding,
        where=where,
        noun="funding rates",
        text=("symbol",),
        numbers=("rate", "interval_h"),
        optional=("interval_h",),
    ).select(FUNDING_COLUMNS)
    check_time_order(funding, where=where)
    twice = funding.filter(~pl.struct("symbol", "timestamp").is_first_distinct())
    if not twice.is_empty():
        raise TimeError(
            f"{where}: {twice.height} duplicated timestamps, first {describe_row(twice)}. Keep one row per symbol and time.",
            column="timestamp",
            rows=twice.height,
        )
    wild = funding.filter(~(pl.col("rate").is_finite() & (pl.col("rate").abs() < 1.0)))
    if not wild.is_empty():
        raise PriceError(
            f"{where}: {wild.height} rows have a rate that is NaN, infinite or no fraction, first "
            f"{describe_row(wild, 'rate')}. 0.0001 is 1 bp; divide percentages by 100 at the source.",
            column="rate",
            rows=wild.height,
        )
    check_numbers(funding, "interval_h", where=where)
    return funding
