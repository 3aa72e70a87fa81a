"""ccxt's streaming client (ccxt.pro): the running bars of a symbol as the exchange sends them, or made of its trades."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError, SourceError
from quantfleet_data.sources.ccxt_ohlcv import CcxtConfig

__all__ = ["LiveFeed", "TradeBars", "connect_live"]


class LiveFeed(Protocol):
    """Where live bars come from. Safe for one waiting task per symbol."""

    whole: bool
    """Whether each row carries all of its bar so far; False for bars made of the trades seen since connecting."""

    async def bars(self, symbol: str) -> Sequence[Sequence[float]]:
        """Wait for news; returns rows of [open time in ms, open, high, low, close, volume] of bars that changed.

        Raises: ccxt.OperationFailed: the connection broke; the next call connects again.
        """

    def lost(self, symbol: str) -> None:
        """The connection broke: what was gathered of running bars is worth nothing."""

    async def close(self) -> None:
        """Close the connection."""


def connect_live(config: CcxtConfig, timeframe: Timeframe) -> LiveFeed:
    """Make a streaming client; it connects when first waited for. To be called where the event loop runs.

    Raises: ConfigError: ccxt streams neither bars nor trades of this exchange.
    """
    import ccxt.pro

    exchange = config.client_of(ccxt.pro)
    limit, unit_s = config.limit, exchange.rateLimit / 1000

    async def throttle(cost: float | None = None) -> None:
        await asyncio.sleep(await asyncio.to_thread(limit.reserve, unit_s * (1.0 if cost is None else float(cost))))

    exchange.throttle = throttle
    exchange.newUpdates = True  # each call returns what is new since the one before
    if exchange.has.get("watchOHLCV"):
        return _Bars(exchange, timeframe)
    if exchange.has.get("watchTrades"):
        return _Trades(exchange, timeframe)
    raise ConfigError(f"ccxt streams neither bars nor trades of {config.exchange}; ingest them over REST instead.")


class _Bars:
    whole = True

    def __init__(self, exchange: Any, timeframe: Timeframe) -> None:
        self.exchange, self.timeframe = exchange, timeframe

    async def bars(self, symbol: str) -> Sequence[Sequence[float]]:
        rows: Sequence[Sequence[float]] = await self.exchange.watch_ohlcv(symbol, self.timeframe.text)
        return [list(row) for row in rows]  # ccxt goes on changing the rows that it handed out

    def lost(self, symbol: str) -> None:
        """Each message carries a whole bar, so nothing was gathered."""

    async def close(self) -> None:
        await self.exchange.close()


class _Trades:
    whole = False

    def __init__(self, exchange: Any, timeframe: Timeframe) -> None:
        self.exchange, self.step_ms = exchange, timeframe.seconds * 1000
        self.made: dict[str, TradeBars] = {}

    async def bars(self, symbol: str) -> Sequence[Sequence[float]]:
        trades = await self.exchange.watch_trades(symbol)
        made = self.made.setdefault(symbol, TradeBars(self.step_ms))
        return made.add([(trade["timestamp"], str(trade["id"]), trade["price"], trade["amount"]) for trade in trades])

    def lost(self, symbol: str) -> None:
        self.made.pop(symbol, None)

    async def close(self) -> None:
        await self.exchange.close()


class TradeBars:
    """Bars out of one symbol's trades as they come in, each trade once, in the order of their times."""

    def __init__(self, step_ms: int) -> None:
        self.step_ms = step_ms
        self._trades: dict[int, dict[str, tuple[int, float, float]]] = {}

    def add(self, trades: Sequence[tuple[int, str, float, float]]) -> list[list[float]]:
        """Take (time in ms, id, price, amount); returns the bars that changed, ascending.

        Raises: SourceError: a trade without a time, a price or an amount.
        """
        touched = set()
        for time_ms, trade_id, price, amount in trades:
            if time_ms is None or price is None or amount is None:
                raise SourceError(
                    f"a streamed trade has no time, price or amount: {(time_ms, trade_id, price, amount)}."
                )
            open_ms = time_ms // self.step_ms * self.step_ms
            self._trades.setdefault(open_ms, {})[trade_id] = (time_ms, price, amount)
            touched.add(open_ms)
        rows: list[list[float]] = []
        for open_ms in sorted(touched):
            own = sorted(self._trades[open_ms].values(), key=lambda trade: trade[0])  # stable: as they came within a ms
            prices = [trade[1] for trade in own]
            rows.append([open_ms, prices[0], max(prices), min(prices), prices[-1], sum(trade[2] for trade in own)])
        for old in sorted(self._trades)[:-2]:
            del self._trades[old]
        return rows
