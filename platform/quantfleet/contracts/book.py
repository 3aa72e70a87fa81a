"""The order-book contract: level-2 snapshots and deltas, one row per price level touched.

Neighbouring rows of one symbol with the same `sequence`, `kind` and `timestamp` are one message of the exchange: either a
snapshot, which replaces the whole book, or a delta, whose rows set the amount resting at a price; amount 0 deletes the
level. `timestamp` is the exchange's time of the message, UTC, microseconds; the book it makes is known from then on.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from quantfleet.contracts.columns import check_numbers, check_time_order, describe_row, typed_columns
from quantfleet.errors import DataError, SchemaError

__all__ = ["BOOK_COLUMNS", "BOOK_KINDS", "BOOK_SCHEMA", "BOOK_SIDES", "validate_book"]

BOOK_KINDS = ("snapshot", "delta")
BOOK_SIDES = ("bid", "ask")
BOOK_COLUMNS = ("symbol", "timestamp", "sequence", "kind", "side", "price", "amount")
"""What a source delivers; `source` and `ingested_at` are added on ingest. `amount` is in the base asset."""

_UTC_US = pa.timestamp("us", tz="UTC")
BOOK_SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("timestamp", _UTC_US, nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("price", pa.float64(), nullable=False),
        pa.field("amount", pa.float64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("ingested_at", _UTC_US, nullable=False),
    ]
)


def validate_book(book: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Check book messages at a boundary and return them with the contract's columns, types and order.

    Whether the messages fit together (no gap, no crossed book) is for the replay to find: it holds the book.

    Args:
        book: at least BOOK_COLUMNS; rows of a symbol together, messages in order of time and sequence.
        where: what to call the table in messages, e.g. "file book.parquet".
    Returns: columns BOOK_COLUMNS, timestamps in UTC microseconds, price and amount float64, sequence int64.
    Raises:
        EmptyTableError: no rows.
        SchemaError: a column is missing or of the wrong type, a value is null, a kind or side is unknown.
        TimeError: timestamps naive, or stepping back within a symbol.
        PriceError: a price is NaN, infinite or not positive; an amount is NaN, infinite or negative.
        DataError: a delta's sequence steps back, or is that of another message before it.
    """
    book = typed_columns(
        book,
        where=where,
        noun="book messages",
        text=("symbol", "kind", "side"),
        numbers=("price", "amount"),
        integers=("sequence",),
    ).select(BOOK_COLUMNS)
    for name, words in (("kind", BOOK_KINDS), ("side", BOOK_SIDES)):
        strange = book.filter(~pl.col(name).is_in(words))
        if not strange.is_empty():
            raise SchemaError(
                f"{where}: {strange.height} rows have a {name} other than {' or '.join(words)}, first "
                f"{describe_row(strange, 'sequence', name)}. Map the source's words to these.",
                column=name,
                rows=strange.height,
            )
    check_time_order(book, where=where)
    check_numbers(book, "price", where=where)
    negative = book.filter(~(pl.col("amount").is_finite() & (pl.col("amount") >= 0)))
    if not negative.is_empty():
        check_numbers(negative, "amount", where=f"{where}, sequence {negative['sequence'][0]}", zero=True)
    same = book["symbol"] == book["symbol"].shift(1)
    follows = book["sequence"] - book["sequence"].shift(1)
    other = (book["kind"] != book["kind"].shift(1)) | (book["timestamp"] != book["timestamp"].shift(1))
    stale = same & (book["kind"] == "delta") & ((follows < 0) | ((follows == 0) & other))
    again = book.filter(stale.fill_null(False))
    if not again.is_empty():
        raise DataError(
            f"{where}: {again.height} deltas do not count on from the message before, first {describe_row(again, 'sequence')}. "
            "A sequence is one message at one time, and only a snapshot may start the count anew: sort by symbol and "
            "sequence, and drop repeated messages.",
            column="sequence",
            rows=again.height,
        )
    return book
