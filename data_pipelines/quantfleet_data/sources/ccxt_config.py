"""What every ccxt source is told: which exchange and symbols, how patiently, how much at once."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from quantfleet.contracts import SourceConfig
from quantfleet.errors import ConfigError, nearest
from quantfleet_data.sources.backoff import Backoff
from quantfleet_data.sources.ccxt_limit import RateLimit, shared_limit
from quantfleet_data.sources.clock import as_utc

__all__ = ["CcxtHistorySettings", "CcxtSettings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CcxtSettings(SourceConfig):
    """Base of the ccxt sources. No credentials: what they read is public."""

    method: ClassVar[str] = ""
    """ccxt's unified name of what is asked for, e.g. fetchOHLCV."""

    exchange: str
    """ccxt's id, e.g. binance."""
    symbols: tuple[str, ...]
    """ccxt's unified symbols, e.g. BTC/USDT."""
    parallel: int = 4
    """Connections at the same time, each with its share of the symbols; all keep one rate limit."""
    max_retries: int = 8
    """Retries of one request; 0 gives up at the first failure."""
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 60.0
    max_wait_s: float = 300.0
    """Longest wait an exchange may ask for (Retry-After); beyond it the fetch stops and says so."""
    rate_limit_ms: float | None = None
    """Milliseconds between requests; None: what ccxt knows of the exchange. Shared by all that ask this exchange."""
    timeout_s: float = 30.0
    urls: dict[str, Any] = field(default_factory=dict)
    """Merged into ccxt's `urls`, e.g. {"api": {"public": "http://127.0.0.1:8080/api/v3"}}."""
    options: dict[str, Any] = field(default_factory=dict)
    """Merged into ccxt's `options`, e.g. {"fetchMarkets": {"types": ["spot"]}}."""

    def __post_init__(self) -> None:
        if not self.symbols:
            raise ConfigError("symbols is empty; name unified symbols such as BTC/USDT.")
        if len(set(self.symbols)) != len(self.symbols):
            raise ConfigError(f"symbols names one symbol twice: {', '.join(self.symbols)}.")
        if self.parallel < 1:
            raise ConfigError(f"parallel={self.parallel} must be at least 1 connection.")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s={self.timeout_s} must be above zero.")
        _ = self.backoff  # checks its own numbers

    @property
    def source_name(self) -> str:
        return f"ccxt.{self.exchange}"

    @property
    def backoff(self) -> Backoff:
        return Backoff(
            max_retries=self.max_retries,
            base_s=self.backoff_base_s,
            cap_s=self.backoff_cap_s,
            patience_s=self.max_wait_s,
        )

    @property
    def limit(self) -> RateLimit:
        """The rate limit that this exchange's clients share."""
        return shared_limit(self.exchange)

    def split(self) -> tuple[SourceConfig, ...]:
        parts = min(self.parallel, len(self.symbols))
        return tuple(replace(self, symbols=self.symbols[n::parts], parallel=1) for n in range(parts))

    def connect(self) -> Any:
        """Make a ccxt client that waits for the shared limit.

        Raises: ConfigError: ccxt knows no such exchange, or it has nothing of that kind.
        """
        import ccxt

        exchange = self.client_of(ccxt)
        exchange.throttle = self.limit.throttle(exchange.rateLimit / 1000)
        return exchange

    def client_of(self, library: Any) -> Any:
        """Make a client of `ccxt` or `ccxt.pro`. Raises: as `connect`."""
        if self.exchange not in library.exchanges:
            raise ConfigError(f"ccxt knows no exchange {self.exchange!r}.{nearest(self.exchange, library.exchanges)}")
        settings: dict[str, Any] = {
            "enableRateLimit": True,
            "timeout": round(self.timeout_s * 1000),
            "urls": self.urls,
            "options": self.options,
        }
        if self.rate_limit_ms is not None:
            settings["rateLimit"] = self.rate_limit_ms
        exchange = getattr(library, self.exchange)(settings)
        if not exchange.has.get(self.method):
            raise ConfigError(f"{self.exchange} serves no {self.method.removeprefix('fetch')} through ccxt.")
        return exchange


@dataclass(frozen=True, kw_only=True, slots=True)
class CcxtHistorySettings(CcxtSettings):
    """Base of those that page through the past."""

    since_utc: dt.datetime
    """First time to fetch. Moved back later, the older part is fetched; moved forward, what is there stays."""
    until_utc: dt.datetime | None = None
    """What lies at or after this is left out; None: up to now."""
    page_limit: int = 1000
    """Rows asked for at once; the exchange's own limit wins when it is lower."""

    def __post_init__(self) -> None:
        CcxtSettings.__post_init__(self)
        if self.page_limit < 1:
            raise ConfigError(f"page_limit={self.page_limit} must be at least 1.")
        if self.until_utc is not None and as_utc(self.until_utc) <= as_utc(self.since_utc):
            raise ConfigError(f"until_utc={self.until_utc} is not after since_utc={self.since_utc}.")
