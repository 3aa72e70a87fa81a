"""Where events come from: bars, trades, or snapshots of order books, laid on one calendar.

Shapes: T rows (bars, or distinct times of events), S symbols, N trades, L levels.
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
from quantfleet.backtest.panel import BarPanel
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

    prices: BarPanel
    """The rows as prices: what positions are marked at."""
    high_TS: Array
    low_TS: Array
    known_after_us: int
    """How long after its time a row is known, microseconds."""

    @abstractmethod
    def events(self, t: int) -> tuple[Event, ...]:
        """The events of a row."""


class BarEvents(EventSource):
    """Bars with their range. Orders see the open, then the range: stops first, then limits."""

    def __init__(self, prices: BarPanel, *, high_TS: Array | None = None, low_TS: Array | None = None) -> None:
        """Take a panel; without highs and lows a bar has gone from its open to its close and nowhere else.

        Raises: BacktestError: highs or lows of another shape, missing where there is a bar, or inside the bar's open and close.
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
        self.known_after_us = int(np.diff(prices.time_T.astype("datetime64[us]").astype(np.int64)).min())

    @classmethod
    def from_bars(cls, bars: pl.DataFrame) -> BarEvents:
        """Take a table of bars: columns symbol, timestamp (UTC), open, high, low, close, and volume where it is known.

        Raises: SchemaError: a column is missing. BacktestError: see `BarPanel.from_bars`, or a high below the close.
        """
        for name in ("high", "low"):
            if name not in bars.columns:
                raise SchemaError(f"bars have no column {name!r}.{nearest(name, bars.columns)}", column=name)
        prices = BarPanel.from_bars(bars)
        ranges = BarPanel.from_bars(bars.select("symbol", "timestamp", open="high", close="low"))
        return cls(prices, high_TS=ranges.open_TS, low_TS=ranges.close_TS)

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
    """Snapshots of order books. Takers walk the levels; whoever waits is filled when the other side comes to his price."""

    def __init__(self, book: pl.DataFrame) -> None:
        """Take a table of snapshots, see `quantfleet.contracts.BOOK_COLUMNS`.

        Raises:
            DataError: the table breaks its contract.
            BookError: a delta, or a snapshot that crosses or lacks a side.
            BacktestError: fewer than two times.
        """
        book = validate_book(book, where="books of a backtest")
        deltas = book.filter(pl.col("kind") == "delta")
        if not deltas.is_empty():
            raise BookError(
                f"books of a backtest: {deltas.height} rows are deltas, first of {deltas['symbol'][0]} at {deltas['timestamp'][0]}"
                ". Replay them into snapshots first."
            )
        book = book.filter(pl.col("amount") > 0.0)
        keys = ["symbol", "timestamp", "sequence"]
        sides = [
            book.filter(pl.col("side") == side)
            .sort("price", descending=side == "bid")
            .group_by(keys)
            .agg(pl.col("price").alias(f"{side}s"), pl.col("amount").alias(f"{side}_amounts"))
            for side in ("bid", "ask")
        ]
        both = sides[0].join(sides[1], on=keys, how="full", coalesce=True).sort(keys)
        wrong = both.filter(~(pl.col("bids").list.first() < pl.col("asks").list.first()).fill_null(False))
        if not wrong.is_empty():
            raise BookError(
                f"books of a backtest: {wrong.height} snapshots cross or lack a side, first of {wrong['symbol'][0]} at "
                f"{wrong['timestamp'][0]}, sequence {wrong['sequence'][0]}. Leave them out, or mend them at the source."
            )
        laid, prices = _laid_out(
            both.with_columns(
                price=0.5 * (pl.col("bids").list.first() + pl.col("asks").list.first()),
                amount=pl.col("bid_amounts").list.sum() + pl.col("ask_amounts").list.sum(),
            )
        )
        super().__init__(prices, laid["row"].to_numpy(), laid["round"].to_numpy())
        self._s, self._row, self._mid = laid["s"].to_list(), laid["row"].to_list(), laid["price"].to_list()
        self._levels = [(laid[f"{side}s"].to_list(), laid[f"{side}_amounts"].to_list()) for side in ("bid", "ask")]

    def event(self, n: int) -> BookEvent:
        """Book number n."""
        symbol, time = self.prices.symbols[self._s[n]], self.prices.time_T[self._row[n]]
        bids, asks = (tuple(zip(price[n], amount[n], strict=True)) for price, amount in self._levels)
        return BookEvent(symbol, time, bids, asks)

    def quote(self, n: int, share: float | None) -> Quote:
        """Both sides of the book."""
        part = 1.0 if share is None else share
        bids, asks = (
            [[p, a * part] for p, a in zip(price[n], amount[n], strict=True)] for price, amount in self._levels
        )
        return Quote(self._s[n], self._mid[n], bids, asks)
