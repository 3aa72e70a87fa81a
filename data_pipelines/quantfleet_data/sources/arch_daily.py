"""S&P 500 and NASDAQ composite, daily bars of 1999 to 2018, out of the package `arch`: real data without a network."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from quantfleet.contracts import FetchRequest, Source, SourceConfig, register_source
from quantfleet.errors import ConfigError, nearest
from quantfleet_data.sources.clock import closed_bars

__all__ = ["ArchDailyConfig"]

_MODULES = {"^GSPC": "arch.data.sp500", "^IXIC": "arch.data.nasdaq"}
_COLUMNS = {"Open": "open", "High": "high", "Low": "low", "Close": "close", "Volume": "volume"}
"""`Close`, not `Adj Close`: an index pays no dividends here, and high and low are on the unadjusted scale."""


@register_source("arch_daily")
@dataclass(frozen=True, kw_only=True, slots=True)
class ArchDailyConfig(SourceConfig):
    """S&P 500 (^GSPC) and NASDAQ composite (^IXIC), daily 1999-2018, bundled with the package arch."""

    symbols: tuple[str, ...] = ("^GSPC", "^IXIC")

    def __post_init__(self) -> None:
        if not self.symbols:
            raise ConfigError(f"symbols is empty; name some of {', '.join(_MODULES)}.")
        for symbol in self.symbols:
            if symbol not in _MODULES:
                raise ConfigError(
                    f"arch has no symbol {symbol!r}.{nearest(symbol, _MODULES)} It has {', '.join(_MODULES)}."
                )

    def build(self) -> Source:
        return _ArchDaily(self)


class _ArchDaily(Source):
    def __init__(self, config: ArchDailyConfig) -> None:
        self.config = config

    def fetch(self, request: FetchRequest) -> Iterator[pl.DataFrame]:
        """Yield one symbol after another, whole. Timestamps are the exchange's dates at 00:00 UTC.

        Raises: ConfigError: another timeframe than 1d is asked for.
        """
        if request.timeframe.text != "1d":
            raise ConfigError(
                f"source {self.config.kind!r} has daily bars only; set timeframe to 1d, not {request.timeframe}."
            )
        for symbol in self.config.symbols:
            bars = closed_bars(_load(symbol), request.timeframe, request.now_utc)
            if not bars.is_empty():  # asked as of a day before 1999
                yield bars


def _load(symbol: str) -> pl.DataFrame:
    frame = importlib.import_module(_MODULES[symbol]).load()
    return pl.DataFrame(
        {
            "symbol": [symbol] * len(frame),
            "timestamp": pl.Series(frame.index.to_numpy()).dt.cast_time_unit("us").dt.replace_time_zone("UTC"),
            **{ours: frame[theirs].to_numpy().astype("float64") for theirs, ours in _COLUMNS.items()},
        }
    )
