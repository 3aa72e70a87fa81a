"""Order-book snapshots of any exchange that ccxt speaks to: what rests in the book at the moment of asking."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from quantfleet.contracts import BOOK_COLUMNS, FetchRequest, RawRows, Source, register_source
from quantfleet.errors import ConfigError, SourceError
from quantfleet_data.sources.ccxt_config import CcxtSettings
from quantfleet_data.sources.ccxt_market import CcxtMarketSource
from quantfleet_data.sources.ccxt_pages import utc_from_ms

__all__ = ["CcxtBookConfig"]


@register_source("ccxt_book")
@dataclass(frozen=True, kw_only=True, slots=True)
class CcxtBookConfig(CcxtSettings):
    """Order-book snapshots of any crypto exchange through ccxt; the past of a book cannot be asked for."""

    delivers: ClassVar[RawRows] = "book"
    method: ClassVar[str] = "fetchOrderBook"

    depth: int = 100
    """Levels of each side; the exchange may send fewer."""
    snapshots: int = 1
    """How many of each symbol, one round after another."""
    every_s: float = 0.0
    """Time from the begin of one round to the next, at least."""

    def __post_init__(self) -> None:
        CcxtSettings.__post_init__(self)
        for name, least in (("depth", 1), ("snapshots", 1), ("every_s", 0)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}.")

    def build(self) -> Source:
        """Raises: ConfigError: ccxt knows no such exchange, or it serves no order book."""
        return CcxtBookSource(self, self.connect(), hold=self.limit.hold)


class CcxtBookSource(CcxtMarketSource[CcxtBookConfig]):
    """Takes snapshots, one at a time."""

    def __init__(
        self,
        config: CcxtBookConfig,
        exchange: Any,
        *,
        sleep: Callable[[float], None] = time.sleep,
        hold: Callable[[float], None] = lambda wait_s: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(config, exchange, sleep=sleep, hold=hold)
        self._sleep, self._clock = sleep, clock

    def rounds(self, request: FetchRequest) -> Iterator[str]:
        for number in range(self.config.snapshots):
            began_s = self._clock()
            yield from self.config.symbols
            if number + 1 < self.config.snapshots:
                self._sleep(max(0.0, self.config.every_s - (self._clock() - began_s)))

    def deliver(self, symbol: str, request: FetchRequest) -> Iterator[pl.DataFrame]:
        asked_ms = int(self._clock() * 1000)
        answer = self.client.call(
            f"order book of {symbol}", lambda: self.exchange.fetch_order_book(symbol, limit=self.config.depth)
        )
        yield _book_rows(answer, symbol=symbol, asked_ms=asked_ms, where=self.client.name)


def _book_rows(answer: Any, *, symbol: str, asked_ms: int, where: str) -> pl.DataFrame:
    """Turn ccxt's book into rows, bids from the best down, asks from the best up.

    Where the exchange states no time, that of asking stands; where it states no sequence, the time in ms does.

    Raises: SourceError: no book, an empty one, levels out of order or doubled, or a best bid not below the best ask.
    """
    sides = {}
    for side, name in (("bid", "bids"), ("ask", "asks")):
        levels = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(levels, list) or not all(
            isinstance(level, list | tuple) and len(level) >= 2 for level in levels
        ):
            raise SourceError(
                f"{where}: the answer for {symbol} is no order book but {str(answer)[:120]!r}.", symbol=symbol
            )
        frame = pl.DataFrame(
            [tuple(level[:2]) for level in levels],
            schema={"price": pl.Float64, "amount": pl.Float64},
            orient="row",
            strict=False,
        )
        steps = frame["price"].diff() * (-1.0 if side == "bid" else 1.0)
        if not bool((steps > 0).fill_null(True).all()):
            raise SourceError(
                f"{where} sends {name} of {symbol} out of order or twice. Nothing of this snapshot is kept.",
                symbol=symbol,
            )
        sides[side] = frame.with_columns(side=pl.lit(side))
    bids, asks = sides["bid"], sides["ask"]
    if bids.is_empty() and asks.is_empty():
        raise SourceError(f"{where} sends an empty order book for {symbol}: is the market trading?", symbol=symbol)
    if not bids.is_empty() and not asks.is_empty() and not bids["price"][0] < asks["price"][0]:
        raise SourceError(
            f"{where} sends a crossed order book of {symbol}: best bid {bids['price'][0]}, best ask {asks['price'][0]}. "
            "Nothing of this snapshot is kept.",
            symbol=symbol,
        )
    time_ms = answer.get("timestamp") or asked_ms
    rows = pl.concat([bids, asks]).with_columns(
        symbol=pl.lit(symbol),
        timestamp=pl.lit(int(time_ms)),
        sequence=pl.lit(int(answer.get("nonce") or time_ms), dtype=pl.Int64),
        kind=pl.lit("snapshot"),
    )
    return utc_from_ms(rows).select(BOOK_COLUMNS)
