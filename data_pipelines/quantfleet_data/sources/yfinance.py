"""Bars and corporate actions of Yahoo Finance, through the package yfinance (the extra `yfinance`).

Yahoo divides prices, volumes and dividends by all splits since, whatever one asks for. `raw` multiplies them back with
the splits of the same answer, which therefore always reaches to the present day.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from quantfleet.contracts import BAR_COLUMNS, Asked, FetchRequest, Source, SourceConfig, register_source, validate_bars
from quantfleet.contracts.instrument import validate_actions
from quantfleet.errors import ConfigError, SourceError
from quantfleet.storage.store import one_line
from quantfleet_data.sources.backoff import Backoff
from quantfleet_data.sources.clock import as_utc, closed_bars
from quantfleet_data.sources.vendors import Adjustment, as_labels, check_request, imported, patiently

__all__ = ["YfinanceConfig", "YfinanceSource"]

_INTERVALS = ("1m", "2m", "5m", "15m", "30m", "1h", "90m", "1d")
_NOT_FOUND = 404
_COLUMNS = {"Open": "open", "High": "high", "Low": "low", "Close": "close", "Volume": "volume"}


@register_source("yfinance")
@dataclass(frozen=True, kw_only=True, slots=True)
class YfinanceConfig(SourceConfig):
    """Yahoo Finance: daily bars of any age, intraday bars of the last weeks. Extra: quantfleet[yfinance]."""

    symbols: tuple[str, ...]
    """Yahoo's, e.g. AAPL, ^GSPC, VOD.L, EURUSD=X."""
    since_utc: dt.datetime
    until_utc: dt.datetime | None = None
    """Bars that open at or after this are left out."""
    adjustment: Adjustment = "raw"
    timeout_s: float = 30.0
    max_retries: int = 4
    name: str | None = None
    """Name in the table's `source` column; "yfinance" and the adjustment when absent, since the two do not mix."""

    def __post_init__(self) -> None:
        check_request(
            self.symbols, self.since_utc, self.until_utc, self.timeout_s, example="Yahoo's symbols, such as AAPL"
        )
        _ = self.backoff  # checks itself

    @property
    def source_name(self) -> str:
        return self.name or f"{self.kind}.{self.adjustment}"

    @property
    def backoff(self) -> Backoff:
        return Backoff(max_retries=self.max_retries, base_s=2.0, cap_s=60.0, patience_s=0.0)

    def build(self) -> YfinanceSource:
        """Raises: ConfigError: yfinance is not installed."""
        return YfinanceSource(self)


class YfinanceSource(Source):
    """Asks for one symbol after another. `session` is one of requests or curl_cffi; yfinance's own when None."""

    def __init__(
        self, config: YfinanceConfig, *, session: Any = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.config = config
        self.session = session
        self.where = f"source {config.source_name!r}"
        self._sleep = sleep
        self._yfinance = imported("yfinance", extra="yfinance")

    def fetch(self, request: FetchRequest) -> Iterator[pl.DataFrame | Asked]:
        """Yield one symbol after another, whole.

        A daily bar is stamped with the exchange's date at 00:00 UTC, an intraday one with its open in UTC. Regular hours
        only. Bars that Yahoo left empty are missing; a volume that it left empty is 0.

        Raises:
            ConfigError: Yahoo has no such timeframe.
            SourceError: it does not answer or limits the rate, after retries; or it has nothing of some symbols, which is
                raised after the others were delivered.
        """
        timeframe = request.timeframe
        if timeframe.text not in _INTERVALS:
            raise ConfigError(f"{self.where} has no timeframe {timeframe}; it has {', '.join(_INTERVALS)}.")
        missing = []
        for symbol in self.config.symbols:
            origin, first, last = as_utc(self.config.since_utc), request.first_known(symbol), request.last_known(symbol)
            since = origin
            if last is not None and (first is None or as_utc(first) <= origin) and self.config.adjustment == "raw":
                since = max(since, as_utc(last))
            history = self._history(symbol, since, timeframe.text)
            if history is None:
                missing.append(symbol)
                continue
            bars = validate_bars(self._bars(symbol, history, daily=timeframe.text == "1d"), where=self.where)
            bars = closed_bars(bars.filter(pl.col("timestamp") >= since), timeframe, request.now_utc)
            if self.config.until_utc is not None:
                bars = bars.filter(pl.col("timestamp") < as_utc(self.config.until_utc))
            if not bars.is_empty():
                yield bars
            if since == origin:
                yield Asked(symbol=symbol, start_utc=origin, end_utc=as_utc(request.now_utc))
        self._refuse(missing)

    def actions(self) -> pl.DataFrame:
        """Splits and dividends since `since_utc`, for `Instruments.actions`; cash per unit of the day.

        Yahoo does not say when they were announced, so each counts as known when it took effect.

        Raises: as `fetch`.
        """
        frames, missing = [], []
        for symbol in self.config.symbols:
            history = self._history(symbol, as_utc(self.config.since_utc), "1d")
            if history is None:
                missing.append(symbol)
                continue
            later = _later_splits(history["Stock Splits"].to_numpy())
            table = pl.DataFrame(
                {
                    "symbol": [symbol] * len(history),
                    "effective_at": _stamps(history, daily=True),
                    "ratio": history["Stock Splits"].to_numpy(),
                    # Paid on what was held before a split of the same day.
                    "cash": history["Dividends"].to_numpy() * later * _ratios(history["Stock Splits"].to_numpy()),
                }
            )
            for name, kind in (("ratio", "split"), ("cash", "dividend")):
                frames.append(table.filter(pl.col(name) > 0).select("symbol", "effective_at", name, kind=pl.lit(kind)))
        self._refuse(missing)
        return validate_actions(pl.concat(frames, how="diagonal"), where=self.where)

    def _refuse(self, missing: list[str]) -> None:
        if missing:
            raise SourceError(
                f"{self.where}: Yahoo has no bars of {', '.join(missing)} in the time asked for. Delisted symbols vanish "
                "there: take them out of `symbols`; what the table has of them stays.",
                symbols=missing,
            )

    def _history(self, symbol: str, since: dt.datetime, interval: str) -> Any:
        """yfinance's own table up to now, or None when Yahoo has none."""
        yfinance, exceptions = self._yfinance, self._yfinance.exceptions

        def ask() -> Any:
            with _raising(yfinance.config.debug):
                return yfinance.Ticker(symbol, session=self.session).history(
                    # A day earlier and later: Yahoo reads days in the zone of the exchange.
                    start=since - dt.timedelta(days=1),
                    end=dt.datetime.now(dt.UTC) + dt.timedelta(days=1),
                    interval=interval,
                    auto_adjust=False,
                    actions=True,
                    prepost=False,
                    timeout=self.config.timeout_s,
                )

        def temporary(error: Exception) -> bool:
            refused = 400 <= _status(error) < 500
            return isinstance(error, exceptions.YFRateLimitError | OSError) and not refused

        try:
            history = patiently(
                f"{symbol} {interval}",
                ask,
                name=self.where,
                backoff=self.config.backoff,
                sleep=self._sleep,
                temporary=temporary,
            )
        except exceptions.YFPricesMissingError as error:
            # No reason, or one of these words, is how Yahoo says that there is nothing.
            if not re.search(r"delisted|doesn't exist", error.yahoo_reason or "delisted"):
                raise SourceError(f"{self.where}: {symbol}: {error.yahoo_reason}", symbol=symbol) from error
            return None
        except exceptions.YFTzMissingError:
            return None
        except OSError as error:  # refused by HTTP; what is temporary was tried again
            if _status(error) == _NOT_FOUND:
                return None
            raise SourceError(f"{self.where}: Yahoo refuses {symbol}: {one_line(str(error))}", symbol=symbol) from error
        except (exceptions.YFException, ValueError, KeyError, TypeError) as error:
            # A page that is no JSON, or JSON of another shape.
            raise SourceError(
                f"{self.where}: Yahoo's answer on {symbol} cannot be read, {type(error).__name__}: {one_line(str(error))}",
                symbol=symbol,
            ) from error
        return None if history.empty else history

    def _bars(self, symbol: str, history: Any, *, daily: bool) -> pl.DataFrame:
        later = _later_splits(history["Stock Splits"].to_numpy())
        bars = pl.DataFrame(
            {
                "symbol": [symbol] * len(history),
                "timestamp": _stamps(history, daily=daily),
                **{ours: history[theirs].to_numpy().astype(np.float64) for theirs, ours in _COLUMNS.items()},
            }
        )
        prices, volumes = np.ones(len(history)), np.ones(len(history))
        if self.config.adjustment == "raw":
            prices, volumes = later, later
        elif self.config.adjustment == "all":
            prices = (history["Adj Close"] / history["Close"]).to_numpy()
        return bars.with_columns(
            *(pl.col(name) * pl.Series(prices) for name in ("open", "high", "low", "close")),
            pl.col("volume") / pl.Series(volumes),
        ).select(BAR_COLUMNS)


def _status(error: Exception) -> int:
    """The HTTP status an error came with, 0 for none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _later_splits(splits: Any) -> Any:
    """Per row, the product of the ratios of all splits on later rows; 0 is no split."""
    return np.append(np.cumprod(_ratios(splits)[::-1])[::-1][1:], 1.0)


def _ratios(splits: Any) -> Any:
    return np.where(splits > 0, splits, 1.0)


def _stamps(history: Any, *, daily: bool) -> pl.Series:
    """Open times in UTC; of daily bars the dates that yfinance states as midnights of the exchange."""
    naive = history.index.tz_convert("UTC").tz_localize(None)
    moments = pl.Series(naive.to_numpy().astype("datetime64[us]")).dt.replace_time_zone("UTC")
    return as_labels(moments, str(history.index.tz)) if daily else moments


@contextlib.contextmanager
def _raising(debug: Any) -> Iterator[None]:
    """Inside, yfinance raises what it otherwise logs and swallows. The switch is one for the whole process."""
    before = debug.hide_exceptions
    debug.hide_exceptions = False
    try:
        yield
    finally:
        debug.hide_exceptions = before
