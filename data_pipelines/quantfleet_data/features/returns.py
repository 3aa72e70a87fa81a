"""Returns: what the price did over the last bar or bars. Fractions (0.01 is 1 %), known at the close of bar t."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from quantfleet.contracts import register_feature
from quantfleet_data.features.base import Feature, KernelFeature
from quantfleet_data.features.kernels import Graph, Node
from quantfleet_data.features.windows import Array, column, lag, log_change

__all__ = ["IntradayReturn", "LogReturn", "OpenGap", "SimpleReturn"]


@register_feature("log_return")
@dataclass(frozen=True, kw_only=True, slots=True)
class LogReturn(Feature):
    """Log return of the close over some bars: ln(close_t / close_{t-bars})."""

    definition: ClassVar[str] = "Campbell, Lo & MacKinlay (1997), The Econometrics of Financial Markets, eq. 1.4.3"
    bars: int = 1

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def values(self, bars: pl.DataFrame) -> Array:
        return log_change(column(bars, "close"), self.bars)


@register_feature("simple_return")
@dataclass(frozen=True, kw_only=True, slots=True)
class SimpleReturn(KernelFeature):
    """Simple return of the close over some bars: close_t / close_{t-bars} - 1."""

    definition: ClassVar[str] = "Campbell, Lo & MacKinlay (1997), The Econometrics of Financial Markets, eq. 1.4.1"
    bars: int = 1

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        return g.product(close, g.inverse(close).lag(self.bars), r=-1.0)


@register_feature("open_gap")
@dataclass(frozen=True, kw_only=True, slots=True)
class OpenGap(Feature):
    """Gap between the previous close and this open: open_t / close_{t-1} - 1."""

    reads: ClassVar[tuple[str, ...]] = ("open", "close")
    definition: ClassVar[str] = "overnight return: Lou, Polk & Skouras (2019), A tug of war, J. Financial Economics 134"

    @property
    def lookback_bars(self) -> int:
        return 2

    def values(self, bars: pl.DataFrame) -> Array:
        return column(bars, "open") / lag(column(bars, "close"), 1) - 1.0


@register_feature("intraday_return")
@dataclass(frozen=True, kw_only=True, slots=True)
class IntradayReturn(Feature):
    """Return within the bar: close_t / open_t - 1."""

    reads: ClassVar[tuple[str, ...]] = ("open", "close")
    definition: ClassVar[str] = "intraday return: Lou, Polk & Skouras (2019), A tug of war, J. Financial Economics 134"

    @property
    def lookback_bars(self) -> int:
        return 1

    def values(self, bars: pl.DataFrame) -> Array:
        return column(bars, "close") / column(bars, "open") - 1.0
