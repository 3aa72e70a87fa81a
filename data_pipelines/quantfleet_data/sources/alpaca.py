"""Bars and corporate actions of US stocks from Alpaca, through the package alpaca-py (the extra `alpaca`)."""

from __future__ import annotations

import datetime as dt
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from pydantic import SecretStr

from quantfleet.contracts import (
    BAR_COLUMNS,
    Asked,
    FetchRequest,
    Source,
    SourceConfig,
    Timeframe,
    register_source,
    validate_bars,
)
from quantfleet.contracts.instrument import validate_actions
from quantfleet.errors import ConfigError, SourceError
from quantfleet.storage.store import one_line
from quantfleet_data.sources.backoff import Backoff
from quantfleet_data.sources.clock import as_utc, closed_bars
from quantfleet_data.sources.vendors import Adjustment, as_labels, check_request, imported, patiently

__all__ = ["AlpacaConfig", "AlpacaSource"]

_PAGE_BARS = 10_000
_EXCHANGE = "America/New_York"
_ADJUSTMENTS = {"raw": "raw", "splits": "split", "all": "all"}
_COLUMNS = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}
_SERVER_ERRORS = (429, 500, 502, 503, 504)
_OWN_TYPES = (
    "forward_split", "reverse_split", "stock_dividend", "cash_dividend", "name_change", "cash_merger", "stock_merger",
    "stock_and_cash_merger",
)  # fmt: skip
"""Kinds of corporate actions that ours can say; unit splits, spin-offs, rights and redemptions cannot be."""


@register_source("alpaca")
@dataclass(frozen=True, kw_only=True, slots=True)
class AlpacaConfig(SourceConfig):
    """US stocks of Alpaca: bars from 1m to 1d, extended hours included. Extra: quantfleet[alpaca]."""

    symbols: tuple[str, ...]
    since_utc: dt.datetime
    until_utc: dt.datetime | None = None
    """Bars that open at or after this are left out."""
    adjustment: Adjustment = "raw"
    feed: Literal["iex", "sip", "otc"] = "sip"
    """sip: all US exchanges. iex: one exchange, some per cent of the volume; what a free account has of the last minutes."""
    follow_renames: bool = False
    """Whether a symbol stands for the company, bars under its earlier names included. Off, a bar has the name it was traded
    under, as the instruments table has it; a rename is a corporate action."""
    key_env: str = "APCA_API_KEY_ID"
    secret_env: str = "APCA_API_SECRET_KEY"  # noqa: S105 - the name of a variable
    """NAMES of the environment variables with the key and its secret, which never stand in a config."""
    url: str | None = None
    """Address of another server than Alpaca's."""
    timeout_s: float = 30.0
    max_retries: int = 4
    name: str | None = None
    """Name in the table's `source` column; "alpaca", the feed and the adjustment when absent, since they do not mix."""

    def __post_init__(self) -> None:
        check_request(self.symbols, self.since_utc, self.until_utc, self.timeout_s, example="US stocks, such as AAPL")
        _ = self.backoff  # checks itself

    @property
    def source_name(self) -> str:
        return self.name or f"{self.kind}.{self.feed}.{self.adjustment}"

    @property
    def backoff(self) -> Backoff:
        return Backoff(max_retries=self.max_retries, base_s=1.0, cap_s=60.0, patience_s=0.0)

    def build(self) -> AlpacaSource:
        """Raises: ConfigError: alpaca-py is not installed, or an environment variable is not set."""
        return AlpacaSource(self)


class AlpacaSource(Source):
    """Pages what the table lacks at its two ends, one symbol after another; adjusted prices are fetched whole."""

    def __init__(self, config: AlpacaConfig, *, sleep: Callable[[float], None] = time.sleep) -> None:
        stock = imported("alpaca.data.historical.stock", extra="alpaca")
        corporate = imported("alpaca.data.historical.corporate_actions", extra="alpaca")
        self.config = config
        self.where = f"source {config.source_name!r}"
        self._sleep = sleep
        key, secret = (_secret(name) for name in (config.key_env, config.secret_env))
        self._bars_client = self._client(stock.StockHistoricalDataClient, key, secret)
        self._actions_client = self._client(corporate.CorporateActionsClient, key, secret)

    def _client(self, kind: Any, key: SecretStr, secret: SecretStr) -> Any:
        client = kind(key.get_secret_value(), secret.get_secret_value(), raw_data=True, url_override=self.config.url)
        client._retry = 0  # retries are ours: theirs wait three seconds three times and then raise
        plain, timeout_s = client._session.request, self.config.timeout_s
        client._session.request = lambda *a, **options: plain(
            *a, **({"timeout": timeout_s} | options)
        )  # theirs waits for ever
        return client

    def fetch(self, request: FetchRequest) -> Iterator[pl.DataFrame | Asked]:
        """Yield pages of at most 10,000 bar times, symbol by symbol.

        A daily bar is stamped with its New York date at 00:00 UTC, an intraday one with its open in UTC. Minutes without a
        trade have no bar.

        Raises:
            ConfigError: Alpaca has no such timeframe.
            SourceError: it refuses (keys, subscription, symbols), or does not answer after retries.
        """
        timeframe = request.timeframe
        unit = self._unit(timeframe)
        for symbol in self.config.symbols:
            since, end = as_utc(self.config.since_utc), as_utc(request.now_utc)
            if self.config.until_utc is not None:
                end = min(end, as_utc(self.config.until_utc))
            first, last = request.first_known(symbol), request.last_known(symbol)
            spans = [(since, end)]
            if last is not None and self.config.adjustment == "raw":
                spans = [(since, since if first is None else as_utc(first)), (max(since, as_utc(last)), end)]
            for start, stop in spans:
                while start < stop:
                    page_end = min(stop, start + _PAGE_BARS * timeframe.delta)
                    bars = self._page(symbol, unit, start, page_end, daily=timeframe.text == "1d")
                    closed = closed_bars(bars, timeframe, request.now_utc)
                    if not closed.is_empty():
                        yield closed
                    start = page_end
            if since < end and (last is None or (first is not None and since < first)):
                yield Asked(symbol=symbol, start_utc=since, end_utc=end)

    def actions(self, *, until_utc: dt.datetime | None = None) -> pl.DataFrame:
        """Splits, dividends, renames and mergers of the symbols since `since_utc`, for `Instruments.actions`.

        Alpaca does not say when they were announced, so each counts as known when it took effect. A rename counts from its
        process date. Unit splits, spin-offs, rights and redemptions are left out: ours has no word for them.

        Raises: SourceError: as `fetch`.
        """
        requests = imported("alpaca.data.requests", extra="alpaca")
        enums = imported("alpaca.data.enums", extra="alpaca")
        end = as_utc(until_utc if until_utc is not None else dt.datetime.now(dt.UTC))
        question = requests.CorporateActionsRequest(
            symbols=list(self.config.symbols),
            types=[enums.CorporateActionsType(kind) for kind in _OWN_TYPES],
            start=as_utc(self.config.since_utc).date(),
            end=end.date(),
            limit=None,
        )
        answer = self._ask("corporate actions", lambda: self._actions_client.get_corporate_actions(question))
        rows = [_action(kind, entry) for kind, entries in answer.items() for entry in entries or ()]
        own = [row for row in rows if row is not None]
        schema = {
            "symbol": pl.String, "effective_at": pl.Date, "kind": pl.String, "ratio": pl.Float64, "cash": pl.Float64,
            "new_symbol": pl.String,
        }  # fmt: skip
        table = pl.DataFrame(own, schema=schema, orient="row")
        day = pl.col("effective_at").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        # Two payments of one day, such as an ordinary and a special dividend, are one.
        keys = ["symbol", "effective_at", "kind", "new_symbol"]
        merged = table.group_by(keys, maintain_order=True).agg(
            ratio=pl.when(pl.col("ratio").count() > 0).then(pl.col("ratio").product()),
            cash=pl.when(pl.col("cash").count() > 0).then(pl.col("cash").sum()),
        )
        return validate_actions(merged.with_columns(day), where=self.where)

    def _unit(self, timeframe: Timeframe) -> Any:
        module = imported("alpaca.data.timeframe", extra="alpaca")
        match = re.fullmatch(r"(\d+)([mhd])", timeframe.text)
        units = {"m": module.TimeFrameUnit.Minute, "h": module.TimeFrameUnit.Hour, "d": module.TimeFrameUnit.Day}
        try:
            if match is not None:
                return module.TimeFrame(int(match[1]), units[match[2]])
        except ValueError as error:
            raise ConfigError(f"{self.where} has no timeframe {timeframe}: {error}") from error
        raise ConfigError(f"{self.where} has no timeframe {timeframe}; it has 1m to 59m, 1h to 23h and 1d.")

    def _page(self, symbol: str, unit: Any, since: dt.datetime, stop: dt.datetime, *, daily: bool) -> pl.DataFrame:
        requests = imported("alpaca.data.requests", extra="alpaca")
        # A day's label is 00:00 UTC, its bar at Alpaca midnight in New York: 4 or 5 hours later.
        late = dt.timedelta(hours=12) if daily else dt.timedelta()
        question = requests.StockBarsRequest(
            symbol_or_symbols=symbol,
            timeframe=unit,
            start=since,
            end=stop + late - dt.timedelta(microseconds=1),
            adjustment=_ADJUSTMENTS[self.config.adjustment],
            feed=self.config.feed,
            asof=None if self.config.follow_renames else "-",
        )
        answer = self._ask(f"{symbol} from {since:%Y-%m-%d %H:%M}", lambda: self._bars_client.get_stock_bars(question))
        rows = (answer or {}).get(symbol) or []
        times = pl.Series([row["t"] for row in rows], dtype=pl.String).str.to_datetime(
            "%+", time_unit="us", time_zone="UTC"
        )
        bars = pl.DataFrame(
            {
                "symbol": pl.Series([symbol] * len(rows), dtype=pl.String),
                "timestamp": as_labels(times, _EXCHANGE) if daily else times,
                **{ours: pl.Series([row[name] for row in rows], dtype=pl.Float64) for name, ours in _COLUMNS.items()},
            }
        ).select(BAR_COLUMNS)
        inside = bars.filter((pl.col("timestamp") >= since) & (pl.col("timestamp") < stop))
        return inside if inside.is_empty() else validate_bars(inside, where=self.where)

    def _ask(self, what: str, question: Callable[[], Any]) -> Any:
        import requests.exceptions

        api = imported("alpaca.common.exceptions", extra="alpaca")

        def temporary(error: Exception) -> bool:
            if isinstance(error, api.APIError):
                return error.status_code in _SERVER_ERRORS
            return isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout)

        try:
            return patiently(
                what, question, name=self.where, backoff=self.config.backoff, sleep=self._sleep, temporary=temporary
            )
        except api.APIError as error:
            raise SourceError(
                f"{self.where}: {what} was refused ({error.status_code}): {one_line(str(error))}. Check the keys in "
                f"{self.config.key_env} and {self.config.secret_env}, what the account may read, and the symbols."
            ) from error
        except (ValueError, KeyError) as error:
            raise SourceError(
                f"{self.where}: the answer on {what} cannot be read, {type(error).__name__}: {one_line(str(error))}"
            ) from error


def _secret(name: str) -> SecretStr:
    value = os.environ.get(name)
    if not value:
        raise ConfigError(f"environment variable {name} is not set; it holds one of the two parts of an Alpaca key.")
    return SecretStr(value)


def _action(kind: str, entry: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Symbol, day, kind, ratio, cash, new symbol of one of Alpaca's corporate actions."""
    day = dt.date.fromisoformat(entry.get("ex_date") or entry.get("effective_date") or entry["process_date"])
    if kind in ("forward_splits", "reverse_splits"):
        return entry["symbol"], day, "split", entry["new_rate"] / entry["old_rate"], None, None
    if kind == "stock_dividends":  # more units for what was held: a split by another name
        return entry["symbol"], day, "split", 1.0 + entry["rate"], None, None
    if kind == "cash_dividends":
        return entry["symbol"], day, "dividend", None, entry["rate"], None
    if kind == "name_changes":
        return entry["old_symbol"], day, "rename", None, None, entry["new_symbol"]
    if kind == "cash_mergers":
        return entry["acquiree_symbol"], day, "merger", None, entry["rate"], None
    if kind in ("stock_mergers", "stock_and_cash_mergers"):
        ratio = entry["acquirer_rate"] / entry["acquiree_rate"]
        cash = entry["cash_rate"] / entry["acquiree_rate"] if kind == "stock_and_cash_mergers" else None
        return entry["acquiree_symbol"], day, "merger", ratio, cash, entry["acquirer_symbol"]
    return None
