"""Trend scanning: the strongest straight line through the coming prices, over all spans up to a longest one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numba import njit

from quantfleet.contracts import LabelConfig, Timeframe, register_label
from quantfleet.errors import ConfigError
from quantfleet_data.features.windows import Array, column
from quantfleet_data.labels.future import known_after, label_pair

__all__ = ["TrendScanning"]

_ROUNDING = 1e-12  # a residual below this share of the total variation is rounding, not noise


@register_label("trend_scanning")
@dataclass(frozen=True, kw_only=True, slots=True)
class TrendScanning(LabelConfig):
    """Signed t-value of the steepest coming trend: trend_t_20; or its sign, trend_20.

    For every span of L = shortest_bars..longest_bars bars the log closes of bars t+1..t+L, those that a position entered at
    open[t+1] lives through, are regressed on time; the span whose slope has the largest |t| wins (the shortest of equals). A
    flat line has t = 0; a perfect one a large but finite t.

    t_end is the close of bar t+longest_bars whichever span wins: choosing the best reads them all.
    Source: Lopez de Prado (2020), Machine Learning for Asset Managers, 5.4 (snippets 5.1 and 5.2).
    """

    shortest_bars: int = 5
    longest_bars: int = 20
    value: Literal["t_value", "sign"] = "t_value"

    def __post_init__(self) -> None:
        if not 3 <= self.shortest_bars <= self.longest_bars:
            raise ConfigError(
                f"label trend_scanning: shortest_bars={self.shortest_bars} must be 3 or more (a t-value needs a residual) and "
                f"no more than longest_bars={self.longest_bars}."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"trend_t_{self.longest_bars}" if self.value == "t_value" else f"trend_{self.longest_bars}",)

    @property
    def horizon_bars(self) -> int:
        return self.longest_bars

    def compute(self, bars: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
        """Return the t-value or its sign (-1.0, 0.0, 1.0), and t_end."""
        strongest = _strongest_trend(np.log(column(bars, "close")), self.shortest_bars, self.longest_bars)
        values = strongest if self.value == "t_value" else np.sign(strongest)
        return pl.DataFrame(label_pair(self.columns[0], values, known_after(bars, self.longest_bars, timeframe)))


@njit(cache=True, nogil=True)
def _strongest_trend(y: Array, shortest: int, longest: int) -> Array:
    """t-value of the slope with the largest |t|; NaN where bar t+longest is not there. Sums start anew at every t."""
    out = np.full(y.size, np.nan)
    for t in range(y.size - longest):
        base, sum_y, sum_yy, sum_xy, best = y[t + 1], 0.0, 0.0, 0.0, 0.0
        for x in range(longest):
            value = y[t + 1 + x] - base
            sum_y += value
            sum_yy += value * value
            sum_xy += x * value
            n = x + 1
            if n < shortest:
                continue
            s_yy = sum_yy - sum_y * sum_y / n
            if s_yy <= _ROUNDING * sum_yy:
                continue  # a flat line
            s_xx = n * (n * n - 1.0) / 12.0
            slope = (sum_xy - 0.5 * x * sum_y) / s_xx
            residual = max(s_yy - slope * slope * s_xx, _ROUNDING * s_yy)
            t_value = slope / np.sqrt(residual / (n - 2) / s_xx)
            if abs(t_value) > abs(best):
                best = t_value
        out[t] = best
    return out
