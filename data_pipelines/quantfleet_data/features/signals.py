"""Signals a discretionary trader reads off a chart: averages in order, their slope, runs. Known at the close of bar t."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import polars as pl

from quantfleet.contracts import register_feature
from quantfleet.errors import ConfigError
from quantfleet_data.features.base import Feature, KernelFeature, warm_up_bars
from quantfleet_data.features.kernels import Graph, Node
from quantfleet_data.features.windows import Array, column, lag

__all__ = ["EmaAlignment", "EmaSlope", "RunLength"]


def _sign(g: Graph, a: Node, b: Node) -> Node:
    """1 where a > b, -1 where a < b, 0 where they are equal."""
    return g.safe(g.sub(a, b), g.absdiff(a, b), undefined=0.0)


@register_feature("ema_alignment")
@dataclass(frozen=True, kw_only=True, slots=True)
class EmaAlignment(KernelFeature):
    """How far price and averages stand in the order of a trend, -1 to 1.

    1 when close > EMA_fast > EMA_middle > EMA_slow, -1 when the other way round: the mean of the three signs. Look-back:
    the slow average's own bars plus its warm-up.
    """

    definition: ClassVar[str] = "TA-Lib EMA; order of moving averages: Murphy (1999), Technical Analysis, ch. 9"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    fast_bars: int = 9
    middle_bars: int = 21
    slow_bars: int = 50

    def __post_init__(self) -> None:
        Feature.__post_init__(self)
        if not self.fast_bars < self.middle_bars < self.slow_bars:
            raise ConfigError(
                f"feature {self.kind}: fast_bars={self.fast_bars}, middle_bars={self.middle_bars} and "
                f"slow_bars={self.slow_bars} must rise."
            )

    @property
    def lookback_bars(self) -> int:
        return self.slow_bars + warm_up_bars(2.0 / (self.slow_bars + 1))

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        lines = [close, *(g.ema(close, n) for n in (self.fast_bars, self.middle_bars, self.slow_bars))]
        signs = [_sign(g, above, below) for above, below in itertools.pairwise(lines)]
        return g.ratio(g.add(g.add(signs[0], signs[1]), signs[2]), g.lin(g.zero(), r=3.0))


@register_feature("ema_slope")
@dataclass(frozen=True, kw_only=True, slots=True)
class EmaSlope(KernelFeature):
    """Growth of an exponential average of the close over some bars: EMA_t / EMA_{t-slope_bars} - 1, a fraction.

    Look-back: the average's own bars, its warm-up, and the bars of the slope.
    """

    definition: ClassVar[str] = (
        "TA-Lib EMA; slope of a moving average: Kaufman (2013), Trading Systems and Methods, ch. 8"
    )
    recursive: ClassVar[bool] = True
    bars: int = 21
    slope_bars: int = 5

    @property
    def lookback_bars(self) -> int:
        return self.bars + warm_up_bars(2.0 / (self.bars + 1)) + self.slope_bars

    def formula(self, g: Graph) -> Node:
        average = g.ema(g.input("close"), self.bars)
        return g.ratio(average, average.lag(self.slope_bars), r=-1.0)


@register_feature("run_length")
@dataclass(frozen=True, kw_only=True, slots=True)
class RunLength(Feature):
    """How many bars in a row, the current one last, closed above (or below) the close before; counted up to `bars`."""

    definition: ClassVar[str] = "runs: Fama (1965), The behavior of stock-market prices, J. Business 38"
    direction: Literal["up", "down"] = "up"
    bars: int = 10

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def values(self, bars: pl.DataFrame) -> Array:
        close = column(bars, "close")
        change = close - lag(close, 1)
        rows, goes_on = np.arange(close.size), change > 0.0 if self.direction == "up" else change < 0.0
        broken_at = np.maximum.accumulate(np.where(goes_on, -1, rows))
        return np.minimum(rows - broken_at, self.bars).astype(np.float64)
