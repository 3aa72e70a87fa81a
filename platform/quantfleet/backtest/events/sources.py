"""Where events come from: bars, trades, or order books, laid on one calendar.

Shapes: T rows (bars, or distinct times of events), S symbols, N events.
Time: a row is matched with orders first and shown to the strategy after. Events of one time are known together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.backtest.events.base import BarEvent, BookEvent, Event, TradeEvent
from quantfleet.backtest.panel import BarPanel, PriceRows
from quantfleet.backtest.result import utc
from quantfleet.contracts import validate_book, validate_trades
from quantfleet.errors import BacktestError, BookError, SchemaError, nearest

__all__ = ["BarEvents", "BookEvents", "EventSource", "Quote", "QuoteEvents", "TradeEvents"]

Array = npt.NDArray[np.float64]


@dataclass(slots=True)
class Quote:
    """What one event offers of a symbol. Levels are [price, amount left], the best first; takers use them up."""

    s: int
    mark: float
    bids: list[list[float]]
    asks: list[list[float]]
    """The same list as the bids where a trade can be had by either side, once."""


class EventSource(ABC):
    """Rows of events on one calendar."""

    prices: PriceRows
    """The rows as prices: what positions are marked at."""
    high_TS: Array
    low_TS: Array
    known_after_us: int
    """How long after its time a row is known, microseconds."""

    @abstractmethod
    def events(self, t: int) -> tuple[Event, ...]:
        """The events of a row."""

    def panel(self) -> BarPanel:
        """The rows that a result is about."""
        assert isinstance(self.prices, BarPanel)
        return self.prices


class BarEvents(EventSource):
    """Bars with their range. Orders see the open, then the range: stops first, then limits."""

    def __init__(
        self,
        prices: BarPanel,
        *,
        high_TS: Array | None = None,
        low_TS: Array | None = None,
        bar_us: int | None = None,
    ) -> None:
        """Take a panel; without highs and lows a bar has gone from its open to its close and nowhere else.

        Args:
            bar_us: length of a bar, microseconds; None takes the smallest step between two.
        Raises: BacktestError: highs or lows of another shape, missing where there is a bar, or inside the bar's open and close;
            bars longer than the step between two.
        """
        self.prices = prices
        top_TS, bottom_TS = np.fmax(prices.open_TS, prices.close_TS), np.fmin(prices.open_TS, prices.close_TS)
        self.high_TS = top_TS if high_TS is None else high_TS
        self.low_TS = bottom_TS if low_TS is None else low_TS
        for name, values_TS in (("high_TS", self.high_TS), ("low_TS", self.low_TS)):
            if values_TS.shape != top_TS.shape:
                raise BacktestError(f"{name} has shape {values_TS.shape}; the panel needs {top_TS.shape}.")
        bar_TS = ~np.isnan(prices.close_TS)
        sound_TS = (
            (self.high_TS >= top_TS) & (self.low_TS <= bottom_TS) & (self.low_TS > 0.0) & np.isfinite(self.high_TS)
        )
        if (bar_TS & ~sound_TS).any():
            t, s = np.argwhere(bar_TS & ~sound_TS)[0]
            raise BacktestError(
                f"the bar of {prices.symbols[s]} at {prices.time_T[t]} has high {self.high_TS[t, s]} and low {self.low_TS[t, s]}, "
                f"open {prices.open_TS[t, s]} and close {prices.close_TS[t, s]}; high and low must hold the others.",
                symbol=prices.symbols[s],
            )
        step_us = int(np.diff(prices.time_T.astype("datetime64[us]").astype(np.int64)).min())
        self.known_after_us = step_us if bar_us is None else bar_us
        if not 0 < self.known_after_us <= step_us:
            raise BacktestError(
                f"bar_us={bar_us} does not fit bars that open {step_us} microseconds after each other; a bar has ended when "
                "the next one opens."
            )

    @classmethod
    def from_bars(cls, bars: pl.DataFrame, *, bar_us: int | None = None) -> BarEvents:
        """Take a table of bars: columns symbol, timestamp (UTC), open, high, low, close, and volume where it is known.

        Args:
            bar_us: as above.
        Raises: SchemaError: a column is missing. BacktestError: see `BarPanel.from_bars`, or a high below the close.
        """
        for name in ("high", "low"):
            if name not in bars.columns:
                raise SchemaError(f"bars have no column {name!r}.{nearest(name, bars.columns)}", column=name)
        prices = BarPanel.from_bars(bars)
        ranges = BarPanel.from_bars(bars.select("symbol", "timestamp", open="high", close="low"))
        return cls(prices, high_TS=ranges.open_TS, low_TS=ranges.close_TS, bar_us=bar_us)

    def require_volume(self) -> None:
        """Raises: BacktestError: a bar has no volume, which a share of it cannot be taken of."""
        volume_TS = self.prices.volume_TS
        bar_TS = ~np.isnan(self.prices.close_TS)
        if volume_TS is None or (bar_TS & ~((volume_TS >= 0.0) & np.isfinite(volume_TS))).any():
            raise BacktestError(
                "execution.max_volume_share needs bars with a finite volume of at least 0, and there are some without. Give "
                "volume_TS, or leave the share out."
            )

    def events(self, t: int) -> tuple[Event, ...]:
        """The bars that ended in a row."""
        prices = self.prices
        return tuple(
            BarEvent(
                symbol,
                prices.time_T[t],
                float(prices.open_TS[t, s]),
                float(self.high_TS[t, s]),
                float(self.low_TS[t, s]),
                float(prices.close_TS[t, s]),
                np.nan if prices.volume_TS is None else float(prices.volume_TS[t, s]),
            )
            for s, symbol in enumerate(prices.symbols)
            if not np.isnan(prices.close_TS[t, s])
        )


class QuoteEvents(EventSource):
    """Events of one symbol each. Those of a time are taken in rounds, one of each symbol, so that no symbol comes first."""

    known_after_us = 0

    def __init__(self, prices: BarPanel, row_N: npt.NDArray[np.int64], round_N: npt.NDArray[np.int64]) -> None:
        """Take events sorted by row, round and symbol.

        Args:
            prices: last price and volume of each row.
            row_N, round_N: row of each event, and its number among those of its symbol and row.
        """
        self.prices = prices
        self.high_TS, self.low_TS = prices.close_TS, prices.close_TS
        self._round_N = round_N
        self._start_T = np.searchsorted(row_N, np.arange(len(prices.time_T) + 1)).tolist()

    @abstractmethod
    def event(self, n: int) -> TradeEvent | BookEvent:
        """Event number n."""

    @abstractmethod
    def quote(self, n: int, share: float | None) -> Quote:
        """What event n offers, when a share of its amounts may be taken."""

    def events(self, t: int) -> tuple[Event, ...]:
        """All events of a time, in rounds."""
        return tuple(self.event(n) for n in range(self._start_T[t], self._start_T[t + 1]))

    def rounds(self, t: int, share: float | None) -> Iterator[list[Quote]]:
        """What the events of a time offer, round by round."""
        n, stop = self._start_T[t], self._start_T[t + 1]
        while n < stop:
            last = n
            while last < stop and self._round_N[last] == self._round_N[n]:
                last += 1
            yield [self.quote(k, share) for k in range(n, last)]
            n = last


def _laid_out(events: pl.DataFrame) -> tuple[pl.DataFrame, BarPanel]:
    """Sort events by time, round and symbol, and make the panel of their times; columns symbol, timestamp, price, amount."""
    events = events.with_columns(round=pl.int_range(pl.len()).over("symbol", "timestamp")).sort(
        "timestamp", "round", "symbol", maintain_order=True
    )
    rows = events.group_by("symbol", "timestamp", maintain_order=True).agg(
        pl.col("price").first().alias("open"),
        pl.col("price").last().alias("close"),
        pl.col("amount").sum().alias("volume"),
    )
    prices = BarPanel.from_bars(rows)
    place = {name: s for s, name in enumerate(prices.symbols)}
    return events.with_columns(
        row=pl.col("timestamp").rank("dense").cast(pl.Int64) - 1,
        s=pl.col("symbol").replace_strict(place, return_dtype=pl.Int64),
    ), prices


class TradeEvents(QuoteEvents):
    """Trades of the market. An order can be filled at the price of a trade, by whoever was the taker."""

    def __init__(self, trades: pl.DataFrame) -> None:
        """Take a table of trades, see `quantfleet.contracts.TRADE_COLUMNS`.

        Raises: DataError: the table breaks its contract. BacktestError: fewer than two times.
        """
        laid, prices = _laid_out(validate_trades(trades, where="trades of a backtest"))
        super().__init__(prices, laid["row"].to_numpy(), laid["round"].to_numpy())
        self._s, self._row, self._side = laid["s"].to_list(), laid["row"].to_list(), laid["side"].to_list()
        self._price, self._amount = laid["price"].to_list(), laid["amount"].to_list()

    def event(self, n: int) -> TradeEvent:
        """Trade number n."""
        symbol, time = self.prices.symbols[self._s[n]], self.prices.time_T[self._row[n]]
        return TradeEvent(symbol, time, self._price[n], self._amount[n], self._side[n])

    def quote(self, n: int, share: float | None) -> Quote:
        """One level for both sides."""
        level = [[self._price[n], np.inf if share is None else share * self._amount[n]]]
        return Quote(self._s[n], self._price[n], level, level)


class BookEvents(QuoteEvents):
    """Order books, one after each message. Takers walk the levels; who waits is filled when the other side comes to his price."""

    def __init__(self, book: pl.DataFrame, *, levels: int | None = None, sequence_step: int | None = 1) -> None:
        """Take a table of snapshots and deltas, see `quantfleet.contracts.BOOK_COLUMNS`.

        Args:
            levels: how many of the best levels of each side to keep after a message; None keeps all.
            sequence_step: by how much the exchange counts from message to delta, so that a lost one shows; None where the count has
                gaps by design.
        Raises:
            DataError: the table breaks its contract.
            BookError: a delta before any snapshot or after a lost message, a book that crosses or lacks a side.
            BacktestError: fewer than two times; levels that are not positive.
        """
        if levels is not None and levels < 1:
            raise BacktestError(f"levels={levels} of a book offer nothing; keep at least 1, or None for all.")
        book = validate_book(book, where="books of a backtest")
        messages = _replayed(book, levels, sequence_step)
        laid, prices = _laid_out(
            pl.DataFrame(
                {
                    "symbol": [message.symbol for message in messages],
                    "timestamp": utc(np.array([message.time for message in messages], dtype="datetime64[us]")),
                    "price": [message.mid for message in messages],
                    "amount": [sum(amount for _, amount in (*message.bids, *message.asks)) for message in messages],
                    "message": range(len(messages)),
                }
            )
        )
        super().__init__(prices, laid["row"].to_numpy(), laid["round"].to_numpy())
        self._s: list[int] = laid["s"].to_list()
        self._books: list[BookEvent] = [messages[k] for k in laid["message"].to_list()]

    def event(self, n: int) -> BookEvent:
        """Book number n."""
        return self._books[n]

    def quote(self, n: int, share: float | None) -> Quote:
        """Both sides of the book."""
        part, book = 1.0 if share is None else share, self._books[n]
        bids, asks = ([[price, amount * part] for price, amount in side] for side in (book.bids, book.asks))
        return Quote(self._s[n], book.mid, bids, asks)


def _replayed(book: pl.DataFrame, levels: int | None, sequence_step: int | None) -> list[BookEvent]:
    """The book after each message, in the order of the table."""
    keys = ["symbol", "timestamp", "sequence", "kind"]
    messages = book.with_columns(pl.col("timestamp").dt.replace_time_zone(None), message=pl.struct(keys).rle_id())
    messages = messages.group_by("message", maintain_order=True).agg(
        *(pl.col(name).first() for name in keys), "side", "price", "amount"
    )
    books: dict[str, tuple[dict[float, float], dict[float, float]]] = {}
    counted: dict[str, int] = {}
    made: list[BookEvent] = []
    for _, symbol, time, sequence, kind, *rows in messages.iter_rows():
        where = f"books of a backtest: {symbol} at {time}, sequence {sequence},"
        if kind == "snapshot":
            books[symbol] = ({}, {})
        elif symbol not in books:
            raise BookError(
                f"{where} is a delta before any snapshot. Begin the table with the symbol's first snapshot."
            )
        elif sequence_step is not None and sequence - counted[symbol] != sequence_step:
            raise BookError(
                f"{where} follows {counted[symbol]}: a message is lost. Go on from the next snapshot, or give sequence_step=None "
                "where the count has gaps by design."
            )
        counted[symbol] = sequence
        for side, price, amount in zip(*rows, strict=True):
            level = books[symbol][side == "ask"]
            if amount > 0.0:
                level[price] = amount
            else:
                level.pop(price, None)
        bids = tuple(sorted(books[symbol][0].items(), reverse=True)[:levels])
        asks = tuple(sorted(books[symbol][1].items())[:levels])
        if not bids or not asks or bids[0][0] >= asks[0][0]:
            raise BookError(
                f"{where} makes a book that crosses or lacks a side. Leave it out, or mend it at the source."
            )
        made.append(BookEvent(symbol, np.datetime64(time, "us"), bids, asks))
    return made
