"""The trades contract: one row per trade of a market, as the exchange printed it.

`timestamp` is the time of the trade at the exchange, UTC, microseconds; a trade is known from then on. The order of rows
is the order of trades: several may carry the same timestamp.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from quantfleet.contracts.columns import check_numbers, check_time_order, describe_row, typed_columns
from quantfleet.errors import DataError, SchemaError

__all__ = ["TRADES_SCHEMA", "TRADE_COLUMNS", "TRADE_SIDES", "validate_trades"]

TRADE_SIDES = ("buy", "sell")
"""The taker's side: the one who crossed the spread."""
TRADE_COLUMNS = ("symbol", "timestamp", "trade_id", "price", "amount", "side")
"""What a source delivers; `source` and `ingested_at` are added on ingest. `amount` is in the base asset."""

_UTC_US = pa.timestamp("us", tz="UTC")
TRADES_SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("timestamp", _UTC_US, nullable=False),
        pa.field("trade_id", pa.string(), nullable=False),
        pa.field("price", pa.float64(), nullable=False),
        pa.field("amount", pa.float64(), nullable=False),
        pa.field("side", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("ingested_at", _UTC_US, nullable=False),
    ]
)


def validate_trades(trades: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Check trades at a boundary and return them with the contract's columns, types and order.

    Args:
        trades: at least TRADE_COLUMNS; rows of a symbol together, in the order they were traded. `side` is the taker's,
            "buy" or "sell", or null where the market does not say.
        where: what to call the table in messages, e.g. "file trades.parquet".
    Returns: columns TRADE_COLUMNS, timestamps in UTC microseconds, price and amount float64.
    Raises:
        EmptyTableError: no rows.
        SchemaError: a column is missing or of the wrong type, a value other than `side` is null, a side is unknown.
        TimeError: timestamps naive, or stepping back within a symbol.
        PriceError: a price or an amount is NaN, infinite or not positive.
        DataError: a trade_id comes twice within a symbol.
    """
    trades = typed_columns(
        trades,
        where=where,
        noun="trades",
        text=("symbol", "trade_id", "side"),
        numbers=("price", "amount"),
        optional=("side",),
    ).select(TRADE_COLUMNS)
    strange = trades.filter(~pl.col("side").is_in(TRADE_SIDES))
    if not strange.is_empty():
        raise SchemaError(
            f"{where}: {strange.height} rows have a side other than buy, sell or null, first "
            f"{describe_row(strange, 'side')}. Map the source's words for the taker's side to these.",
            column="side",
            rows=strange.height,
        )
    check_time_order(trades, where=where)
    for name in ("price", "amount"):
        check_numbers(trades, name, where=where)
    twice = trades.filter(~pl.struct("symbol", "trade_id").is_first_distinct())
    if not twice.is_empty():
        raise DataError(
            f"{where}: {twice.height} trades come twice, first {describe_row(twice, 'trade_id')}. Keep one row per symbol and "
            "trade_id.",
            column="trade_id",
            rows=twice.height,
        )
    return trades
