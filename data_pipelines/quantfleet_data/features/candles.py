"""TA-Lib's 61 candlestick patterns. 1 bullish, -1 bearish (2 and -2 where TA-Lib knows a confirmation), 0 none.

Known at the close of bar t. TA-Lib calls a body long or a shadow short by the average of the 5 or 10 bars before, which
it keeps as a running total from the start of the series: its rounding errors would carry the series' start into every
later comparison. Here prices are first rounded to 32 bits of mantissa (a part in 4e9: 0.00003 for a price of 100,000).
Sums and differences of such prices are exact as long as the largest price of the history is less than 100,000 times the
smallest, so a pattern depends on its own window alone, wherever the series starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import talib
import talib.abstract

from quantfleet.contracts import register_feature
from quantfleet.errors import ConfigError, nearest
from quantfleet_data.features.base import Feature
from quantfleet_data.features.windows import Array, column

__all__ = ["CANDLE_PATTERNS", "CandlePattern"]

CANDLE_PATTERNS = tuple(
    name.removeprefix("CDL").lower() for name in sorted(talib.get_function_groups()["Pattern Recognition"])
)
"""TA-Lib's names without CDL, in small letters: 2crows ... xsidegap3methods."""
_MANTISSA_BITS = 32


def _rounded(price_T: Array) -> Array:
    """Prices to the nearest number of 32 mantissa bits; scaling by a power of two changes nothing."""
    mantissa, exponent = np.frexp(price_T)
    rounded: Array = np.ldexp(np.rint(np.ldexp(mantissa, _MANTISSA_BITS)), exponent - _MANTISSA_BITS)
    return rounded


@register_feature("candle_pattern")
@dataclass(frozen=True, kw_only=True, slots=True)
class CandlePattern(Feature):
    """One of TA-Lib's candlestick patterns, with TA-Lib's own settings. `pattern` is its name without CDL: doji, hammer."""

    reads: ClassVar[tuple[str, ...]] = ("open", "high", "low", "close")
    pattern: str = "engulfing"

    def __post_init__(self) -> None:
        Feature.__post_init__(self)
        if self.pattern not in CANDLE_PATTERNS:
            raise ConfigError(
                f"feature {self.kind}: there is no pattern {self.pattern!r}.{nearest(self.pattern, CANDLE_PATTERNS)} "
                f"There are {', '.join(CANDLE_PATTERNS)}."
            )

    @property
    def column(self) -> str:
        return f"candle_{self.pattern}"

    @property
    def source(self) -> str:
        return f"TA-Lib CDL{self.pattern.upper()}; Nison (1991), Japanese Candlestick Charting Techniques"

    @property
    def lookback_bars(self) -> int:
        return int(talib.abstract.Function(f"CDL{self.pattern.upper()}").lookback) + 1

    def values(self, bars: pl.DataFrame) -> Array:
        prices = [_rounded(column(bars, name)) for name in self.reads]
        out, warm_up = np.full(bars.height, np.nan), self.lookback_bars - 1
        broken = np.flatnonzero(np.isnan(sum(prices)))
        starts = np.concatenate([[0], broken + 1])
        for start, stop in zip(starts, np.append(broken, bars.height), strict=True):
            if stop - start > warm_up:  # TA-Lib would carry a NaN in its totals to the end of the series
                found = getattr(talib, f"CDL{self.pattern.upper()}")(*(p[start:stop].copy() for p in prices))
                out[start + warm_up : stop] = found[warm_up:] / 100.0
        return out
