"""Order-book measures as columns of bars: the book as it stood when the bar closed, never later."""

from __future__ import annotations

import datetime as dt

import polars as pl

from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError, SchemaError

__all__ = ["join_book"]


def join_book(
    bars: pl.DataFrame,
    book: pl.DataFrame,
    timeframe: Timeframe | None = None,
    *,
    max_age: dt.timedelta | None = None,
    prefix: str = "book_",
) -> pl.DataFrame:
    """Add to each bar the newest book measures that are known when the bar is.

    Args:
        bars: bars of any symbols, by symbol and time.
        book: what `replay` gave: symbol, timestamp (when the book was known), sequence, measures.
        timeframe: length of the bars, which are known at timestamp + timeframe; None for bars that say so themselves in a
            column `known_at` (bars from trades).
        max_age: a book older than this at the close says nothing and counts as missing; None: any age.
        prefix: put before the names of the measures.
    Returns: the bars, in their order, with the measures and {prefix}age_s, the age of the book at the close in seconds;
        null where there is none. As bar columns they can be read by features.
    Raises:
        SchemaError: `known_at` is missing where there is no timeframe, or the bars have a column of such a name.
        ConfigError: max_age is negative.
    """
    if max_age is not None and max_age < dt.timedelta(0):
        raise ConfigError(f"max_age={max_age} of a book must not be negative.")
    if timeframe is None and "known_at" not in bars.columns:
        raise SchemaError(
            "the bars do not say when they are known: they have no column 'known_at'. Name their timeframe.",
            column="known_at",
        )
    measures = [c for c in book.columns if c not in ("symbol", "timestamp", "sequence")]
    names = {c: f"{prefix}{c}" for c in measures}
    taken = [n for n in (*names.values(), f"{prefix}age_s") if n in bars.columns]
    if taken:
        raise SchemaError(f"the bars already have {', '.join(taken)}. Join the book once, or choose another prefix.")
    closes = pl.col("timestamp") + timeframe.delta if timeframe is not None else pl.col("known_at")
    right = book.select("symbol", pl.col("timestamp").alias("__book"), *(pl.col(c).alias(n) for c, n in names.items()))
    # messages of one microsecond follow each other: the last of them is the book at that time
    right = right.unique(["symbol", "__book"], keep="last", maintain_order=True).sort(
        "symbol", "__book", maintain_order=True
    )
    joined = (
        bars.with_row_index("__row")
        .with_columns(closes.alias("__close"))
        .sort("symbol", "__close")
        .join_asof(
            right, left_on="__close", right_on="__book", by="symbol", strategy="backward", check_sortedness=False
        )
        .with_columns((pl.col("__close") - pl.col("__book")).alias("__age"))
    )
    if max_age is not None:
        fresh = pl.col("__age") <= max_age
        joined = joined.with_columns(pl.when(fresh).then(pl.col(n)).alias(n) for n in (*names.values(), "__age"))
    return (
        joined.with_columns((pl.col("__age").dt.total_microseconds() / 1e6).alias(f"{prefix}age_s"))
        .sort("__row")
        .select(*bars.columns, *names.values(), f"{prefix}age_s")
    )
