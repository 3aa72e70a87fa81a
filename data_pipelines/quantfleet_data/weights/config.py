"""The `labels.weights:` section of a recipe: which labels weigh how much in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError
from quantfleet_data.features.windows import Array, column, log_change
from quantfleet_data.weights.intervals import average_uniqueness, return_attribution, time_decay

__all__ = ["WeightsConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsConfig:
    """Weight of each row by how its label overlaps others of its symbol, for training only: it looks at the future.

    A label decided at bar t spans bars t+1 to the one that makes it known. Rows whose label is unknown weigh 0.0. Only ratios
    of weights mean anything; the scale is that of `by`.
    Source: Lopez de Prado (2018), Advances in Financial Machine Learning, ch. 4.
    """

    label: str
    """Column of the label whose own span counts. One with an outcome-dependent end (triple_barrier_21) has rows of more and less
    uniqueness; a fixed horizon has nearly equal ones."""
    by: Literal["uniqueness", "return"] = "uniqueness"
    """uniqueness: the average uniqueness, in (0, 1]. return: the absolute log return that is the label's own."""
    oldest_weight: float = 1.0
    """Time decay along each symbol's labels: factor of the oldest, 1 for none; below 0 the oldest share weighs nothing."""

    def __post_init__(self) -> None:
        if not -1.0 < self.oldest_weight <= 1.0:
            raise ConfigError(f"labels.weights.oldest_weight={self.oldest_weight} must lie above -1 and not above 1.")

    def compute(self, bars: pl.DataFrame, t_end: pl.Series, timeframe: Timeframe) -> Array:
        """Weights of one symbol's rows, shape (T,).

        Args:
            bars: one symbol, sorted by time.
            t_end: when each row's label is known (UTC), null where unknown, row by row as `bars`.
        """
        weights = np.zeros(bars.height)
        rows = np.flatnonzero(t_end.is_not_null().to_numpy())
        if not rows.size:
            return weights
        last_open = (t_end - timeframe.delta).dt.epoch("us").gather(rows).to_numpy()
        first, last = rows + 1, np.searchsorted(bars["timestamp"].dt.epoch("us").to_numpy(), last_open)
        uniqueness = average_uniqueness(first, last, bars.height)
        if self.by == "uniqueness":
            weights[rows] = uniqueness
        else:
            weights[rows] = return_attribution(first, last, log_change(column(bars, "close")))
        weights[rows] *= time_decay(uniqueness, self.oldest_weight)
        return weights
