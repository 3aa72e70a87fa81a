"""OHLCV of any exchange that ccxt speaks to: paged, rate limited, only what is missing. No credentials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from quantfleet.contracts import FetchRequest, Source, register_source
from quantfleet.errors import ConfigError
from quantfleet_data.sources.ccxt_config import CcxtHistorySettings
from quantfleet_data.sources.ccxt_market import CcxtHistorySource
from quantfleet_data.sources.ccxt_pages import checked_page, to_ms, to_utc

__all__ = ["CcxtConfig", "CcxtSource"]

_UNSTATED_PAGE_BARS = 100
"""Page size assumed for stepping over empty stretches of exchanges that do not state theirs; small is slow but safe."""


@register_source("ccxt")
@dataclass(frozen=True, kw_only=True, slots=True)
class CcxtConfig(CcxtHistorySettings):
    """OHLCV of any crypto exchange through ccxt: paged, rate limited, resumable."""

    method: ClassVar[str] = "fetchOHLCV"

    def build(self) -> Source:
        """Raises: ConfigError: ccxt knows no such exchange, or it serves no OHLCV."""
        return CcxtSource(self, self.connect(), hold=self.limit.hold)


class CcxtSource(CcxtHistorySource[CcxtConfig]):
    """Pages through closed bars."""

    row_noun = "a bar"

    def check(self, request: FetchRequest) -> None:
        timeframe, offered = request.timeframe, self.exchange.timeframes or {}
        if timeframe.text not in offered:
            raise ConfigError(
                f"{self.client.name} has no timeframe {timeframe.text!r}; it has {', '.join(offered) or 'none'}.",
                timeframe=timeframe.text,
            )

    def end_ms(self, request: FetchRequest) -> int:
        return super().end_ms(request) - _step_ms(request)  # later bars are still open

    def page(self, symbol: str, request: FetchRequest, since_ms: int) -> tuple[pl.DataFrame, int]:
        limit = self.limit(symbol, unstated=self.config.page_limit)
        rows = self.client.call(
            f"{symbol} from {to_utc(since_ms):%Y-%m-%d %H:%M}",
            lambda: self.exchange.fetch_ohlcv(symbol, request.timeframe.text, since=since_ms, limit=limit),
        )
        page = checked_page(rows, symbol=symbol, since_ms=since_ms, timeframe=request.timeframe, where=self.client.name)
        return page, since_ms if page.is_empty() else to_ms(page["timestamp"][-1]) + _step_ms(request)

    def newest_ms(self, symbol: str, request: FetchRequest) -> int | None:
        rows = self.client.call(
            f"newest bar of {symbol}", lambda: self.exchange.fetch_ohlcv(symbol, request.timeframe.text)
        )
        page = checked_page(rows, symbol=symbol, since_ms=0, timeframe=request.timeframe, where=self.client.name)
        return None if page.is_empty() else to_ms(page["timestamp"][-1])

    def reach_ms(self, symbol: str, request: FetchRequest) -> int:
        return self.limit(symbol, unstated=_UNSTATED_PAGE_BARS) * _step_ms(request)


def _step_ms(request: FetchRequest) -> int:
    return request.timeframe.seconds * 1000
