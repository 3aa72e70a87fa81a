"""Triple barrier: does a position first win, first lose, or run out of time?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from quantfleet.contracts import LabelConfig, Timeframe, register_label
from quantfleet.errors import ConfigError
from quantfleet_data.features.windows import column
from quantfleet_data.labels.barriers import LOWER, NEITHER, UPPER, touch_after_entry
from quantfleet_data.labels.future import (
    ahead,
    check_horizons,
    check_volatility_bars,
    known_at,
    label_pair,
    trailing_volatility,
)

__all__ = ["TripleBarrier", "check_multipliers"]


def check_multipliers(kind: str, **multipliers: float) -> None:
    """Raises: ConfigError: a barrier's distance is not a positive number."""
    for name, value in multipliers.items():
        if not (math.isfinite(value) and value > 0.0):
            raise ConfigError(f"label {kind}: {name}={value} must be a positive number.")


@register_label("triple_barrier")
@dataclass(frozen=True, kw_only=True, slots=True)
class TripleBarrier(LabelConfig):
    """1.0 when the profit barrier is touched first, -1.0 the loss barrier, 0.0 neither: triple_barrier_21, ...

    A long position enters at open[t+1]. Its barriers stand at entry * (1 + profit_multiplier * v) and
    entry * (1 - loss_multiplier * v), v being the root mean square of the last `volatility_bars` log returns up to t,
    known when the decision is taken. Highs and lows of bars t+1..t+h are checked in order; a bar that touches both
    counts as a loss, since its path is not known. Where nothing moved (v = 0) no barrier can stand: time runs out.

    t_end is the close of the bar that touched, or of t+h. So near the end of the data only touched labels are known,
    and picking rows by this t_end would favour quick winners and losers. The row's own `t_end` that `compute_labels`
    adds does not depend on the outcome: pick and purge by that.
    Source: Lopez de Prado (2018), Advances in Financial Machine Learning, 3.4.
    """

    horizons_bars: tuple[int, ...] = (21,)
    profit_multiplier: float = 4.0
    """Distance of the barrier in volatilities of one bar; sqrt(h) of them are a usual move over h bars."""
    loss_multiplier: float = 4.0
    volatility_bars: int = 21
    timeout: Literal["zero", "sign"] = "zero"
    """The label when time runs out: 0.0, or the sign of close[t+h] - open[t+1]."""

    def __post_init__(self) -> None:
        check_horizons(self.kind, self.horizons_bars)
        check_multipliers(self.kind, profit_multiplier=self.profit_multiplier, loss_multiplier=self.loss_multiplier)
        check_volatility_bars(self.kind, self.volatility_bars)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"triple_barrier_{h}" for h in self.horizons_bars)

    @property
    def horizon_bars(self) -> int:
        return max(self.horizons_bars)

    def compute(self, bars: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
        """Return triple_barrier_{h} and its t_end; NaN and null before the trailing volatility is known."""
        volatility = trailing_volatility(bars, self.volatility_bars)
        pairs: list[pl.Series] = []
        for name, h in zip(self.columns, self.horizons_bars, strict=True):
            touched, last_bar = touch_after_entry(
                bars, volatility, above=self.profit_multiplier, below=self.loss_multiplier, horizon_bars=h
            )
            values = np.where(touched == UPPER, 1.0, np.where(touched == NEITHER, 0.0, float(LOWER)))
            if self.timeout == "sign":
                moved = ahead(column(bars, "close"), h) - ahead(column(bars, "open"), 1)
                values = np.where(touched == NEITHER, np.sign(moved), values)
            pairs += label_pair(name, values, known_at(bars, last_bar, timeframe))
        return pl.DataFrame(pairs)
