"""Public trades of any exchange that ccxt speaks to, from a time on, without losing those that share a millisecond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from quantfleet.contracts import TRADE_COLUMNS, FetchRequest, RawRows, Source, register_source
from quantfleet.errors import ConfigError, SourceError
from quantfleet_data.sources.ccxt_config import CcxtHistorySettings
from quantfleet_data.sources.ccxt_market import CcxtHistorySource
from quantfleet_data.sources.ccxt_pages import refuse_disorder, to_ms, to_utc, utc_from_ms

__all__ = ["CcxtTradesConfig", "trade_rows"]

_SCHEMA = {"timestamp": pl.Int64, "trade_id": pl.String, "price": pl.Float64, "amount": pl.Float64, "side": pl.String}


@register_source("ccxt_trades")
@dataclass(frozen=True, kw_only=True, slots=True)
class CcxtTradesConfig(CcxtHistorySettings):
    """Public trades of any crypto exchange through ccxt, as far back as the exchange hands them out."""

    delivers: ClassVar[RawRows] = "trades"
    method: ClassVar[str] = "fetchTrades"

    window_s: float = 3600.0
    """How far one answer of the exchange reaches at least when it holds no trade; stretches without trades are crossed
    in steps of this length. Binance: an hour.
    """

    def __post_init__(self) -> None:
        CcxtHistorySettings.__post_init__(self)
        if not self.window_s >= 1:
            raise ConfigError(f"window_s={self.window_s} must be at least a second.")

    def build(self) -> Source:
        """Raises: ConfigError: ccxt knows no such exchange, or it serves no trades."""
        return CcxtTradesSource(self, self.connect(), hold=self.limit.hold)


class CcxtTradesSource(CcxtHistorySource[CcxtTradesConfig]):
    """Pages through trades. The last millisecond of a page may be cut, so it is asked for again, whole."""

    row_noun = "a trade"
    joins_spans = False  # an hour may hold a hundred thousand of them

    def page(self, symbol: str, request: FetchRequest, since_ms: int) -> tuple[pl.DataFrame, int]:
        limit = self.limit(symbol, unstated=self.config.page_limit)
        rows = self.client.call(
            f"trades of {symbol} from {to_utc(since_ms):%Y-%m-%d %H:%M:%S}",
            lambda: self.exchange.fetch_trades(symbol, since=since_ms, limit=limit),
        )
        trades = trade_rows(rows, symbol=symbol, where=self.client.name)
        if trades.is_empty():
            return trades, since_ms
        first_ms, last_ms = to_ms(trades["timestamp"][0]), to_ms(trades["timestamp"][-1])
        if first_ms < since_ms:
            raise SourceError(
                f"{self.client.name} repeats itself: asked for trades of {symbol} from {to_utc(since_ms)} on, it sent some "
                f"from {to_utc(first_ms)} on. Nothing of this page is kept.",
                symbol=symbol,
            )
        if first_ms < last_ms:
            return trades.filter(pl.col("timestamp") < to_utc(last_ms)), last_ms
        if trades.height >= limit:
            raise SourceError(
                f"{self.client.name}: {trades.height} trades of {symbol} at {to_utc(last_ms)} fill a whole page, so more of "
                "that millisecond cannot be reached. Raise page_limit if the exchange allows it.",
                symbol=symbol,
            )
        return trades, last_ms + 1

    def newest_ms(self, symbol: str, request: FetchRequest) -> int | None:
        rows = self.client.call(f"newest trade of {symbol}", lambda: self.exchange.fetch_trades(symbol))
        trades = trade_rows(rows, symbol=symbol, where=self.client.name)
        return None if trades.is_empty() else to_ms(trades["timestamp"][-1])

    def reach_ms(self, symbol: str, request: FetchRequest) -> int:
        return round(self.config.window_s * 1000)


def trade_rows(rows: Any, *, symbol: str, where: str) -> pl.DataFrame:
    """Turn ccxt's trades into rows of the trades table.

    A trade without an id gets one made of its time, price, amount, side and its number among equals of that millisecond:
    the same whenever the millisecond is fetched whole.

    Returns: TRADE_COLUMNS in the order given; empty when there are none. Values are checked later, by `validate_trades`.
    Raises: SourceError: no list of trades; trades out of order; the same id twice.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not all(_is_trade(row) for row in rows):
        raise SourceError(
            f"{where}: the answer for {symbol} is no list of trades but {str(rows)[:120]!r}.", symbol=symbol
        )
    trades = pl.DataFrame(
        [(row["timestamp"], row.get("id"), row.get("price"), row.get("amount"), row.get("side")) for row in rows],
        schema=_SCHEMA,
        orient="row",
        strict=False,
    )
    refuse_disorder(trades["timestamp"], symbol, where, noun="trades", equal=True)
    parts = [pl.col(name).cast(pl.String).fill_null("?") for name in ("timestamp", "price", "amount", "side")]
    alike = pl.int_range(pl.len()).over("timestamp", "price", "amount", "side").cast(pl.String)
    trades = trades.with_columns(
        trade_id=pl.coalesce("trade_id", pl.concat_str([*parts, alike], separator="-")), symbol=pl.lit(symbol)
    )
    twice = trades.filter(~pl.col("trade_id").is_first_distinct())
    if not twice.is_empty():
        raise SourceError(
            f"{where} repeats trades of {symbol}, first {twice['trade_id'][0]} ({twice.height} of {trades.height} in this "
            "page). Nothing of this page is kept.",
            symbol=symbol,
        )
    return utc_from_ms(trades).select(TRADE_COLUMNS)


def _is_trade(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("timestamp"), int)
