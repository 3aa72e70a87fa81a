"""Bar columns as the kernels read them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from quantfleet_data.features.windows import Array, column

__all__ = ["bar_columns"]

_DAY_US = 86_400_000_000


def bar_columns(bars: pl.DataFrame, names: Iterable[str]) -> dict[str, Array]:
    """The named columns as contiguous float64, null as NaN; `day` is the number of the UTC day a bar opens in."""
    return {name: _day(bars) if name == "day" else column(bars, name) for name in names}


def _day(bars: pl.DataFrame) -> Array:
    stamps = bars["timestamp"].dt.epoch("us").to_numpy()
    days: Array = (stamps // _DAY_US).astype(np.float64)
    return days
