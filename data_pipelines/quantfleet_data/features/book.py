"""Features of the order book as it stood when the bar closed. Known at the close of bar t.

The job joins measures of the book as columns `book_...` (section `book` of a recipe), null where no book was known or it
was too old. A window that holds such a bar is NaN, so its row is masked: nothing is invented.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from quantfleet.contracts import register_feature
from quantfleet.errors import ConfigError
from quantfleet_data.features.base import Feature
from quantfleet_data.features.windows import Array, column, rolling_mean

__all__ = ["BookMeasure"]

_SCALE_FREE = re.compile(r"(spread|microprice)_bps|imbalance_[0-9.]+(bps)?|slope_imbalance_[0-9]+")


@register_feature("book")
@dataclass(frozen=True, kw_only=True, slots=True)
class BookMeasure(Feature):
    """A scale-free measure of the order book at the close: spread, micro-price or imbalance; its mean over the bars."""

    definition: ClassVar[str] = "Cao, Hansch & Wang (2009), The information content of an open limit-order book, 2"
    measure: str = "imbalance_5"
    """spread_bps, microprice_bps, imbalance_K, imbalance_Xbps or slope_imbalance_K, for K and X of the section `book`."""
    bars: int = 1

    def __post_init__(self) -> None:
        Feature.__post_init__(self)
        if not _SCALE_FREE.fullmatch(self.measure):
            raise ConfigError(
                f"feature book: measure={self.measure!r} is no scale-free measure of a book. Known: spread_bps, "
                "microprice_bps, imbalance_K, imbalance_Xbps, slope_imbalance_K, such as imbalance_5."
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        return (f"book_{self.measure}",)

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def values(self, bars: pl.DataFrame) -> Array:
        measured = column(bars, f"book_{self.measure}")
        return np.array(measured) if self.bars == 1 else rolling_mean(measured, self.bars)
