"""Snapshots and deltas to the book they make, and the book to measures, message by message or at bar closes.

Memory: the levels of each symbol's book and one batch of rows, however long the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from quantfleet.compiled import read_only
from quantfleet.contracts import Timeframe, validate_book
from quantfleet.errors import BookError, ConfigError, MissingInputError, TimeError
from quantfleet_data.order_book.features import BookFeaturesConfig
from quantfleet_data.order_book.kernel import (
    ASK_LEVELS,
    BID_LEVELS,
    CROSSED,
    FINE,
    GAP,
    HAVE_BOOK,
    SEQUENCE,
    STATE,
    TIME_US,
    Floats,
    Integers,
    measure,
    run_messages,
)
from quantfleet_data.sources.clock import grid_seconds

__all__ = ["BookReplay", "replay"]

_UTC_US = pl.Datetime("us", "UTC")


@dataclass(slots=True)
class _Book:
    state: Integers = field(default_factory=lambda: np.zeros(STATE, np.int64))
    sides: list[Floats] = field(default_factory=lambda: [np.empty(0) for _ in range(4)])
    """Bid prices and amounts, ask prices and amounts, best level last."""

    def make_room(self, rows: int) -> None:
        """So many more levels at most: every row may add one."""
        for i, held in enumerate((BID_LEVELS, BID_LEVELS, ASK_LEVELS, ASK_LEVELS)):
            levels, side = int(self.state[held]), self.sides[i]
            wanted = levels + rows
            if not wanted <= len(side) <= 4 * wanted + 1024:
                grown = np.empty(wanted + wanted // 2)
                grown[:levels] = side[:levels]
                self.sides[i] = grown


class BookReplay:
    """Replays the order books of any number of symbols from batches of messages. Not thread-safe.

    A message (all its rows) must lie in one batch. After a BookError the symbol's book is gone, and the measures of that
    batch are not given out: go on with its next snapshot.
    """

    def __init__(
        self,
        features: BookFeaturesConfig | None = None,
        *,
        timeframe: Timeframe | None = None,
        sequence_step: int | None = 1,
    ) -> None:
        """Make an empty replay.

        Args:
            timeframe: None: measures after every message. Otherwise only of the last message at or before each close of
                a bar of this length, given out when a later message comes: what `join_book` needs, and no more.
            sequence_step: by how much the exchange counts from message to message, so that a lost one shows; None: the
                count has gaps by design and only has to grow.
        Raises: ConfigError: sequence_step is not positive, or bars of this length close at no agreed moment.
        """
        if timeframe is not None and grid_seconds(timeframe) is None:
            raise ConfigError(
                f"order book: bars of {timeframe} do not divide a day, so their closes are not known here. Replay without a "
                "timeframe; `join_book` finds the closes in the bars."
            )
        if sequence_step is not None and sequence_step < 1:
            raise ConfigError(
                f"order book: sequence_step={sequence_step} must be positive, or None for counts with gaps."
            )
        self.features = features or BookFeaturesConfig()
        self._sample_us = timeframe.seconds * 1_000_000 if timeframe else 0
        self._step = sequence_step or 0
        self._books: dict[str, _Book] = {}
        settings = self.features
        self._settings = (
            np.array(settings.levels, np.int64),
            np.array(settings.within_bps, np.float64),
            np.array(settings.slope_levels, np.int64),
        )

    def update(self, rows: pl.DataFrame, *, where: str = "the order book") -> pl.DataFrame:
        """Apply a batch of BOOK_COLUMNS; return symbol, timestamp, sequence of messages and their measures.

        `timestamp` is when the row's book came to be, and is known.

        Raises:
            BookError: a delta before any snapshot, a sequence that does not follow, a best bid at or above the best ask.
            EmptyTableError, SchemaError, TimeError, PriceError, DataError: the rows break the book contract (a negative
                amount, say). TimeError: a symbol steps back before its last batch.
        """
        rows = validate_book(rows, where=where)
        parts = rows.partition_by("symbol", maintain_order=True)
        for part in parts:
            book = self._books.get(str(part["symbol"][0]))
            if book is not None and part["timestamp"].dt.epoch("us")[0] < book.state[TIME_US]:
                raise TimeError(
                    f"{where}: {part['symbol'][0]} goes back to {part['timestamp'][0]}, before the end of the last batch. Give "
                    "batches in order of time."
                )
        return pl.concat([self._apply(part, where) for part in parts])

    def finish(self) -> pl.DataFrame:
        """The books as they stand, one row a symbol: what sampling still holds back at the end of the data."""
        made = []
        for symbol, book in self._books.items():
            if book.state[HAVE_BOOK]:
                out_P = np.empty((1, len(self.features.columns)))
                measure(
                    *book.sides, int(book.state[BID_LEVELS]), int(book.state[ASK_LEVELS]), *self._settings, out_P[0]
                )
                made.append(self._frame(symbol, out_P, book.state[[TIME_US]], book.state[[SEQUENCE]]))
        empty = self._frame("", np.empty((0, len(self.features.columns))), *(np.empty(0, np.int64) for _ in range(2)))
        return pl.concat([empty, *made])

    def levels(self, symbol: str) -> pl.DataFrame:
        """The book of a symbol as it stands: side, price, amount; best levels first, bids before asks.

        Raises: MissingInputError: there is no book of that symbol.
        """
        book = self._books.get(symbol)
        if book is None or not book.state[HAVE_BOOK]:
            raise MissingInputError(f"there is no order book of {symbol!r}. Known: {', '.join(self._books) or 'none'}.")
        tables = []
        for side, (price, amount), held in (
            ("bid", book.sides[:2], BID_LEVELS),
            ("ask", book.sides[2:], ASK_LEVELS),
        ):
            last = int(book.state[held])
            tables.append(
                pl.DataFrame({"side": [side] * last, "price": price[:last][::-1], "amount": amount[:last][::-1]})
            )
        return pl.concat(tables)

    def _apply(self, part: pl.DataFrame, where: str) -> pl.DataFrame:
        symbol = str(part["symbol"][0])
        book = self._books.setdefault(symbol, _Book())
        heads = part.select("timestamp", "sequence", "kind")
        new = (heads != heads.shift(1)).select(pl.any_horizontal(pl.all().fill_null(True))).to_series()
        start = np.flatnonzero(new.to_numpy())
        heads = heads[start]
        book.make_room(part.height)
        M, P = len(start), len(self.features.columns)
        out_EP, out_time, out_sequence = np.empty((M, P)), np.empty(M, np.int64), np.empty(M, np.int64)
        wrong, at, made = run_messages(
            book.state,
            *book.sides,
            *(
                read_only(array)
                for array in (
                    np.append(start, part.height),
                    heads["timestamp"].dt.epoch("us").to_numpy(),
                    heads["sequence"].to_numpy(),
                    (heads["kind"] == "snapshot").to_numpy(),
                    (part["side"] == "bid").to_numpy(),
                    part["price"].to_numpy(),
                    part["amount"].to_numpy(),
                )
            ),
            self._step,
            self._sample_us,
            *self._settings,
            out_EP,
            out_time,
            out_sequence,
        )
        if wrong != FINE:
            raise self._error(wrong, symbol, book, heads.row(at, named=True), where)
        return self._frame(symbol, out_EP[:made], out_time[:made], out_sequence[:made])

    def _error(self, wrong: int, symbol: str, book: _Book, message: dict[str, Any], where: str) -> BookError:
        sequence, time = int(message["sequence"]), message["timestamp"]
        if wrong == GAP:
            before = int(book.state[SEQUENCE])
            what = f"sequence {sequence} at {time} comes after {before}"
            if sequence <= before:
                what += ": it was applied already, or steps back"
            else:
                what += f", where {before + self._step} should follow: messages are missing"
        elif wrong == CROSSED:
            bid, ask = (book.sides[i][book.state[held] - 1] for i, held in ((0, BID_LEVELS), (2, ASK_LEVELS)))
            what = f"sequence {sequence} at {time} crosses the book: best bid {bid} is not below best ask {ask}"
        else:
            what = f"sequence {sequence} at {time} is a delta, and no snapshot came before it"
        self._books.pop(symbol)
        return BookError(
            f"{where}: {symbol} {what}. Go on with the next snapshot, or fetch the stream again from here.",
            symbol=symbol,
            sequence=sequence,
        )

    def _frame(self, symbol: str, out_EP: Floats, time_E: Integers, sequence_E: Integers) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "symbol": pl.Series([symbol], dtype=pl.String).new_from_index(0, len(out_EP)),
                "timestamp": pl.Series(time_E.copy()).cast(_UTC_US),
                "sequence": pl.Series(sequence_E.copy()),
                **{name: pl.Series(out_EP[:, i].copy()) for i, name in enumerate(self.features.columns)},
            }
        )


def replay(
    rows: pl.DataFrame,
    features: BookFeaturesConfig | None = None,
    *,
    timeframe: Timeframe | None = None,
    sequence_step: int | None = 1,
    where: str = "the order book",
) -> pl.DataFrame:
    """Replay a whole table of messages; see `BookReplay`. With a timeframe the last book of each symbol is included."""
    books = BookReplay(features, timeframe=timeframe, sequence_step=sequence_step)
    made = books.update(rows, where=where)
    return (
        made
        if timeframe is None
        else pl.concat([made, books.finish()]).sort("symbol", "timestamp", maintain_order=True)
    )
