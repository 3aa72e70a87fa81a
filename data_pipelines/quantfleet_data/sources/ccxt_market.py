"""A ccxt source, whatever it delivers: symbols checked before the first request, one after another, paged through time."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import polars as pl

from quantfleet.contracts import Asked, FetchRequest, Source
from quantfleet.errors import ConfigError, SourceError, nearest
from quantfleet_data.sources.ccxt_client import PatientClient
from quantfleet_data.sources.ccxt_config import CcxtHistorySettings, CcxtSettings
from quantfleet_data.sources.ccxt_pages import to_ms, to_utc
from quantfleet_data.sources.clock import as_utc

__all__ = ["CcxtHistorySource", "CcxtMarketSource"]

C = TypeVar("C", bound=CcxtSettings)
H = TypeVar("H", bound=CcxtHistorySettings)


class CcxtMarketSource(Source, Generic[C]):
    """Base of the ccxt sources."""

    def __init__(
        self,
        config: C,
        exchange: Any,
        *,
        sleep: Callable[[float], None] = time.sleep,
        hold: Callable[[float], None] = lambda wait_s: None,
    ) -> None:
        self.config = config
        self.exchange = exchange
        self.client = PatientClient(exchange, name=config.source_name, backoff=config.backoff, sleep=sleep, hold=hold)

    def fetch(self, request: FetchRequest) -> Iterator[pl.DataFrame | Asked]:
        """Yield pages, symbol by symbol.

        Raises:
            ConfigError: the exchange has no such timeframe or symbol; raised before anything is fetched.
            SourceError: it did not deliver after retries, or what it delivered cannot be true.
        """
        self.check(request)
        markets = self.client.call("list of markets", self.exchange.load_markets)
        for symbol in self.config.symbols:
            if symbol not in markets:
                raise ConfigError(
                    f"{self.client.name} has no market {symbol!r}.{nearest(symbol, markets)} Symbols are ccxt's "
                    "unified ones, such as BTC/USDT.",
                    symbol=symbol,
                )
        try:
            for symbol in self.rounds(request):
                yield from self.deliver(symbol, request)
        finally:
            self.exchange.session.close()

    def check(self, request: FetchRequest) -> None:
        """Raise ConfigError for what the exchange cannot serve."""

    def rounds(self, request: FetchRequest) -> Iterator[str]:
        """The symbols in the order in which they are asked for."""
        yield from self.config.symbols

    @abstractmethod
    def deliver(self, symbol: str, request: FetchRequest) -> Iterator[pl.DataFrame | Asked]:
        """Yield what there is of one symbol."""


class CcxtHistorySource(CcxtMarketSource[H]):
    """Base of those that page through the past: older than the table, its holes, and on from its newest row."""

    row_noun = "a row"
    joins_spans = True
    """Whether spans closer than an empty answer reaches are fetched as one, with the rows between them again."""

    def deliver(self, symbol: str, request: FetchRequest) -> Iterator[pl.DataFrame | Asked]:
        end_ms = self.end_ms(request)
        if self.config.until_utc is not None:
            end_ms = min(end_ms, to_ms(as_utc(self.config.until_utc)))
        since = as_utc(self.config.since_utc)
        if to_ms(since) >= end_ms:
            return
        spans = [
            (to_ms(start), to_ms(end) + (end.microsecond % 1000 > 0))
            for start, end in request.missing(symbol, since, to_utc(end_ms))
        ]
        newest_first_ms = spans[-1][0] if spans else 0
        for start_ms, stop_ms in _joined(spans, self.reach_ms(symbol, request) if self.joins_spans else 0):
            yield from self._walk(symbol, request, start_ms, stop_ms, open_end=stop_ms > newest_first_ms)
            yield Asked(symbol=symbol, start_utc=to_utc(start_ms), end_utc=to_utc(stop_ms))

    def end_ms(self, request: FetchRequest) -> int:
        """Where fetching ends; rows of that time or later are not complete yet."""
        return to_ms(as_utc(request.now_utc)) + 1

    @abstractmethod
    def page(self, symbol: str, request: FetchRequest, since_ms: int) -> tuple[pl.DataFrame, int]:
        """Fetch the first rows from a time on.

        Returns: the rows, ascending, none before `since_ms`; and the time to ask for next, when there are any.
        """

    @abstractmethod
    def newest_ms(self, symbol: str, request: FetchRequest) -> int | None:
        """Time of the newest row that the exchange shows when asked for no time; None when it shows none."""

    @abstractmethod
    def reach_ms(self, symbol: str, request: FetchRequest) -> int:
        """How far an empty answer reaches at least: the exchange has nothing in so many ms from the time asked for."""

    def _walk(
        self, symbol: str, request: FetchRequest, next_ms: int, end_ms: int, *, open_end: bool
    ) -> Iterator[pl.DataFrame]:
        newest_ms: int | None = None
        crossed_from_ms: int | None = None  # begin of the empty stretch that is being crossed
        while next_ms < end_ms:  # ends: each round moves next_ms forward
            page, after_ms = self.page(symbol, request, next_ms)
            if not page.is_empty():
                next_ms = after_ms
                newest_ms, crossed_from_ms = None, None
                wanted = page.filter(pl.col("timestamp") < to_utc(end_ms))
                if not wanted.is_empty():
                    yield wanted
                continue
            # The end of this market, or an empty stretch: some exchanges answer for a window of time only.
            if crossed_from_ms is None:
                crossed_from_ms = next_ms
                newest_ms = self.newest_ms(symbol, request) if open_end else None
                if newest_ms is not None and newest_ms < next_ms:
                    return
            next_ms += self.reach_ms(symbol, request)
            if newest_ms is not None and newest_ms < min(next_ms, end_ms):
                raise SourceError(
                    f"{self.client.name} does not move on: it has {self.row_noun} of {symbol} at {to_utc(newest_ms)}, yet it "
                    f"sends nothing when asked for the time from {to_utc(crossed_from_ms)} to there. What was fetched "
                    "before is kept.",
                    symbol=symbol,
                )

    def limit(self, symbol: str, *, unstated: int) -> int:
        """Rows of a page: the exchange's own limit or, where it states none, `unstated`; never more than configured."""
        stated = self.exchange.feature_value(symbol, self.config.method, "limit")
        return min(self.config.page_limit, int(stated if stated is not None else unstated))


def _joined(spans: list[tuple[int, int]], reach_ms: int) -> Iterator[tuple[int, int]]:
    """Spans so close that one page covers both, as one: rows that are there already are cheaper than a request."""
    start_ms, end_ms = -1, -1
    for next_start_ms, next_end_ms in spans:
        if start_ms >= 0 and next_start_ms - end_ms < reach_ms:
            end_ms = max(end_ms, next_end_ms)
            continue
        if start_ms >= 0:
            yield start_ms, end_ms
        start_ms, end_ms = next_start_ms, next_end_ms
    if start_ms >= 0:
        yield start_ms, end_ms
