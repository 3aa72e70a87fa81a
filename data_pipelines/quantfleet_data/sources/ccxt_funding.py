"""Funding rates of perpetual futures, as settled, of any exchange that ccxt speaks to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from quantfleet.contracts import FUNDING_COLUMNS, Asked, FetchRequest, RawRows, Source, register_source
from quantfleet.errors import SourceError
from quantfleet_data.sources.ccxt_config import CcxtHistorySettings
from quantfleet_data.sources.ccxt_market import CcxtHistorySource
from quantfleet_data.sources.ccxt_pages import refuse_disorder, to_ms, to_utc, utc_from_ms

__all__ = ["CcxtFundingConfig"]

_HOUR_MS = 3_600_000
_UNSTATED_PAGE_ROWS = 100


@register_source("ccxt_funding")
@dataclass(frozen=True, kw_only=True, slots=True)
class CcxtFundingConfig(CcxtHistorySettings):
    """Settled funding rates of perpetual futures (BTC/USDT:USDT) through ccxt."""

    delivers: ClassVar[RawRows] = "funding"
    method: ClassVar[str] = "fetchFundingRateHistory"

    def build(self) -> Source:
        """Raises: ConfigError: ccxt knows no such exchange, or it serves no funding rates."""
        return CcxtFundingSource(self, self.connect(), hold=self.limit.hold)


class CcxtFundingSource(CcxtHistorySource[CcxtFundingConfig]):
    """Pages through settlements. The hours of a settlement are counted from the one before, so the newest one of the
    table is fetched again for the sake of the next; the first of a span has none.
    """

    row_noun = "a funding rate"

    def page(self, symbol: str, request: FetchRequest, since_ms: int) -> tuple[pl.DataFrame, int]:
        limit = self.limit(symbol, unstated=self.config.page_limit)
        rows = self.client.call(
            f"funding of {symbol} from {to_utc(since_ms):%Y-%m-%d %H:%M}",
            lambda: self.exchange.fetch_funding_rate_history(symbol, since=since_ms, limit=limit),
        )
        rates = _funding_rows(rows, symbol=symbol, where=self.client.name)
        if not rates.is_empty() and (first := rates["timestamp"][0]) < to_utc(since_ms):
            raise SourceError(
                f"{self.client.name} repeats itself: asked for funding of {symbol} from {to_utc(since_ms)} on, it sent some "
                f"from {first} on. Nothing of this page is kept.",
                symbol=symbol,
            )
        return rates, since_ms if rates.is_empty() else to_ms(rates["timestamp"][-1]) + 1

    def deliver(self, symbol: str, request: FetchRequest) -> Iterator[pl.DataFrame | Asked]:
        """Yield settlements with the hours since the one before."""
        known, before = request.last_known(symbol), None
        for item in super().deliver(symbol, request):
            if isinstance(item, Asked):
                before = None
                yield item
                continue
            since = pl.col("timestamp").shift(1, fill_value=pl.lit(before, dtype=item.schema["timestamp"]))
            # settlements are stamped a few milliseconds late now and then
            hours = ((pl.col("timestamp") - since).dt.total_milliseconds() / _HOUR_MS).round(3)
            rows = item.with_columns(interval_h=hours).select(FUNDING_COLUMNS)
            before = item["timestamp"][-1]
            if known is not None:  # it is in the table with its hours; here it only served to count those of the next
                rows = rows.filter((pl.col("timestamp") != known) | pl.col("interval_h").is_not_null())
            if not rows.is_empty():
                yield rows

    def newest_ms(self, symbol: str, request: FetchRequest) -> int | None:
        rows = self.client.call(f"newest funding of {symbol}", lambda: self.exchange.fetch_funding_rate_history(symbol))
        rates = _funding_rows(rows, symbol=symbol, where=self.client.name)
        return None if rates.is_empty() else to_ms(rates["timestamp"][-1])

    def reach_ms(self, symbol: str, request: FetchRequest) -> int:
        # At one settlement an hour, the most frequent there is: a page of those covers the least time.
        return self.limit(symbol, unstated=_UNSTATED_PAGE_ROWS) * _HOUR_MS


def _funding_rows(rows: Any, *, symbol: str, where: str) -> pl.DataFrame:
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not all(_is_rate(row) for row in rows):
        raise SourceError(
            f"{where}: the answer for {symbol} is no list of funding rates but {str(rows)[:120]!r}.", symbol=symbol
        )
    rates = pl.DataFrame(
        [(row["timestamp"], row.get("fundingRate")) for row in rows],
        schema={"timestamp": pl.Int64, "rate": pl.Float64},
        orient="row",
        strict=False,
    )
    refuse_disorder(rates["timestamp"], symbol, where, noun="funding rates")
    return utc_from_ms(rates).with_columns(symbol=pl.lit(symbol))


def _is_rate(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("timestamp"), int)
