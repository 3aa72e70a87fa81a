"""Volume profile: at which prices the volume of the last bars changed hands. Known at the close of bar t.

Each bar's volume is spread evenly over its range from low to high. A window that holds a null volume, or no volume at
all, is neutral (0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import polars as pl
from numba import njit

from quantfleet.contracts import register_feature
from quantfleet_data.features.base import Feature
from quantfleet_data.features.rolling import neutral_without_volume
from quantfleet_data.features.windows import Array, column

__all__ = ["VALUE_AREA_SHARE", "VolumeProfile"]

Level = Literal["point_of_control", "value_area_high", "value_area_low"]
VALUE_AREA_SHARE = 0.7
"""Share of the volume in the value area: about one standard deviation on either side, Steidlmayer's choice."""


@register_feature("volume_profile")
@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeProfile(Feature):
    """Distance of a level of the volume profile from the close: level / close - 1, a fraction.

    The window's range is cut into `bins` of equal height. Point of control: middle of the bin with most volume (the
    lowest of equals). Value area: grown from there, each time by the neighbour with more volume (the upper of equals),
    until it holds 70 % of the volume.
    """

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close", "volume")
    definition: ClassVar[str] = "Steidlmayer & Koy (1986), Markets and Market Logic: market profile, by volume"
    smallest_bars: ClassVar[int] = 2
    level: Level = "point_of_control"
    bars: int = 100
    bins: int = 24

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def values(self, bars: pl.DataFrame) -> Array:
        close = column(bars, "close")
        levels = np.full((3, close.size), np.nan)
        _profile(column(bars, "high"), column(bars, "low"), column(bars, "volume"), self.bars, self.bins, levels)
        chosen = levels[("point_of_control", "value_area_high", "value_area_low").index(self.level)]
        return neutral_without_volume(chosen / close - 1.0, self.bars - 1)


@njit(cache=True, nogil=True)
def _profile(high_T: Array, low_T: Array, volume_T: Array, n: int, bins: int, levels_3T: Array) -> None:
    profile = np.empty(bins)
    for t in range(n - 1, volume_T.size):
        top, bottom, total = -math.inf, math.inf, 0.0
        for i in range(t - n + 1, t + 1):
            total += volume_T[i] + 0.0 * (high_T[i] + low_T[i])
            top, bottom = max(top, high_T[i]), min(bottom, low_T[i])
        if math.isnan(total) or total == 0.0:
            continue
        height = (top - bottom) / bins
        if height == 0.0:
            levels_3T[0, t] = levels_3T[1, t] = levels_3T[2, t] = bottom
            continue
        profile[:] = 0.0
        for i in range(t - n + 1, t + 1):
            start, stop = (low_T[i] - bottom) / height, (high_T[i] - bottom) / height
            first, last = min(int(start), bins - 1), min(int(stop), bins - 1)
            if first == last:
                profile[first] += volume_T[i]
                continue
            share = volume_T[i] / (stop - start)
            profile[first] += share * (first + 1 - start)
            for b in range(first + 1, last):
                profile[b] += share
            profile[last] += share * (stop - last)
        lower = upper = np.argmax(profile)
        levels_3T[0, t] = bottom + (lower + 0.5) * height
        held = profile[lower]
        while held < VALUE_AREA_SHARE * total and (lower > 0 or upper < bins - 1):
            below = profile[lower - 1] if lower > 0 else -1.0
            above = profile[upper + 1] if upper < bins - 1 else -1.0
            if above >= below:
                upper += 1
                held += above
            else:
                lower -= 1
                held += below
        levels_3T[1, t], levels_3T[2, t] = bottom + (upper + 1) * height, bottom + lower * height
