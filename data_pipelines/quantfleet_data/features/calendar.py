"""Calendar: the bar's own open time on the circles of day, week and year. UTC; known before the bar starts.

Values come from small tables, so the same time has the same bits on every row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import polars as pl

from quantfleet.contracts import register_feature
from quantfleet_data.features.base import Feature
from quantfleet_data.features.windows import Array

__all__ = ["DayOfMonth", "DayOfWeek", "HourOfDay", "MonthOfYear", "Wave"]

Wave = Literal["sin", "cos"]
_MINUTES = 24 * 60


def _on_circle(steps: pl.Series, period: int, wave: Wave) -> Array:
    function = math.sin if wave == "sin" else math.cos
    table = np.array([function(2.0 * math.pi * step / period) for step in range(period)])
    values: Array = table[steps.cast(pl.Int64).to_numpy()]
    return values


@register_feature("day_of_week")
@dataclass(frozen=True, kw_only=True, slots=True)
class DayOfWeek(Feature):
    """Weekday on a circle of seven days, Monday at angle 0; in [-1, 1]."""

    reads: ClassVar[tuple[str, ...]] = ("timestamp",)
    definition: ClassVar[str] = "sin or cos of 2 pi weekday / 7"
    wave: Wave = "sin"

    @property
    def lookback_bars(self) -> int:
        return 1

    def values(self, bars: pl.DataFrame) -> Array:
        return _on_circle(bars["timestamp"].dt.weekday() - 1, 7, self.wave)


@register_feature("month_of_year")
@dataclass(frozen=True, kw_only=True, slots=True)
class MonthOfYear(Feature):
    """Month on a circle of twelve, January at angle 0; in [-1, 1]."""

    reads: ClassVar[tuple[str, ...]] = ("timestamp",)
    definition: ClassVar[str] = "sin or cos of 2 pi (month - 1) / 12"
    wave: Wave = "sin"

    @property
    def lookback_bars(self) -> int:
        return 1

    def values(self, bars: pl.DataFrame) -> Array:
        return _on_circle(bars["timestamp"].dt.month() - 1, 12, self.wave)


@register_feature("hour_of_day")
@dataclass(frozen=True, kw_only=True, slots=True)
class HourOfDay(Feature):
    """Minute of the UTC day on a circle of 24 hours, midnight at angle 0; in [-1, 1], constant for daily bars."""

    reads: ClassVar[tuple[str, ...]] = ("timestamp",)
    definition: ClassVar[str] = "sin or cos of 2 pi minute / 1440"
    wave: Wave = "sin"

    @property
    def lookback_bars(self) -> int:
        return 1

    def values(self, bars: pl.DataFrame) -> Array:
        stamp = bars["timestamp"].dt
        return _on_circle(stamp.hour().cast(pl.Int64) * 60 + stamp.minute(), _MINUTES, self.wave)


@register_feature("day_of_month")
@dataclass(frozen=True, kw_only=True, slots=True)
class DayOfMonth(Feature):
    """Place in the month: 0 on its first day, 1 on its last."""

    reads: ClassVar[tuple[str, ...]] = ("timestamp",)
    definition: ClassVar[str] = (
        "(day - 1) / (days in the month - 1); turn of the month: Ariel (1987), J. Fin. Economics 18"
    )

    @property
    def lookback_bars(self) -> int:
        return 1

    def values(self, bars: pl.DataFrame) -> Array:
        stamp = bars["timestamp"].dt
        day = stamp.day().cast(pl.Float64).to_numpy()
        last = stamp.month_end().dt.day().cast(pl.Float64).to_numpy()
        place: Array = (day - 1.0) / (last - 1.0)
        return place
