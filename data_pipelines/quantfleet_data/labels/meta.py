"""Meta-labels: a primary rule says which side to take; the label says whether taking it would have paid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from quantfleet.contracts import FeatureConfig, LabelConfig, Timeframe, register_label
from quantfleet.errors import ConfigError
from quantfleet_data.features.trend import SmaRatio
from quantfleet_data.features.windows import Array, column
from quantfleet_data.labels.barriers import NEITHER, UPPER, touch_after_entry
from quantfleet_data.labels.future import (
    ahead,
    check_horizons,
    check_volatility_bars,
    known_at,
    label_pair,
    trailing_volatility,
)
from quantfleet_data.labels.triple_barrier import check_multipliers

__all__ = ["MetaLabel"]


@register_label("meta_label")
@dataclass(frozen=True, kw_only=True, slots=True)
class MetaLabel(LabelConfig):
    """1.0 when the trade of a primary rule made money under a triple barrier, 0.0 when it did not: meta_21, ...

    The primary rule is any feature; its sign is the side: long above `primary_band`, short below -`primary_band`. It is known
    at the close of bar t, the trade enters at open[t+1] and leaves at the profit barrier, at the loss barrier (also when one bar
    touches both), or at close[t+h]. It made money when its simple return on the barrier or close exceeds `cost_bps`.

    Where the rule takes no side there is no trade and no label: NaN and null, so the whole row's t_end is null. Let a recipe
    that trains a meta-model list this family alone. t_end depends on the outcome, as that of `triple_barrier`.
    Source: Lopez de Prado (2018), Advances in Financial Machine Learning, 3.6 and snippet 3.7.
    """

    primary: FeatureConfig = field(default_factory=SmaRatio)
    """By default fast against slow moving average, 50 and 200 bars."""
    primary_band: float = 0.0
    """The rule acts only where its value is further from zero than this, in the feature's own unit."""
    horizons_bars: tuple[int, ...] = (21,)
    profit_multiplier: float = 4.0
    """Distance of the barrier in volatilities of one bar."""
    loss_multiplier: float = 4.0
    volatility_bars: int = 21
    cost_bps: float = 0.0
    """What a round trip costs, in basis points of the entry."""

    def __post_init__(self) -> None:
        check_horizons(self.kind, self.horizons_bars)
        check_multipliers(self.kind, profit_multiplier=self.profit_multiplier, loss_multiplier=self.loss_multiplier)
        check_volatility_bars(self.kind, self.volatility_bars)
        for name in ("primary_band", "cost_bps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ConfigError(f"label {self.kind}: {name}={value} must be zero or more.")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"meta_{h}" for h in self.horizons_bars)

    @property
    def horizon_bars(self) -> int:
        return max(self.horizons_bars)

    def sides(self, bars: pl.DataFrame) -> Array:
        """The primary rule's side at each bar (T,): 1.0 long, -1.0 short, NaN where it does not act."""
        signal = self.primary.compute(bars)
        return np.where(signal > self.primary_band, 1.0, np.where(signal < -self.primary_band, -1.0, np.nan))

    def compute(self, bars: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
        """Return meta_{h} and its t_end; NaN and null where the rule does not act or volatility is not known yet."""
        side, volatility = self.sides(bars), trailing_volatility(bars, self.volatility_bars)
        acting, long = ~np.isnan(side), side > 0.0
        above, below = (
            np.where(acting, np.where(long, here, there), np.nan)
            for here, there in (
                (self.profit_multiplier, self.loss_multiplier),
                (self.loss_multiplier, self.profit_multiplier),
            )
        )
        entry, close = ahead(column(bars, "open"), 1), column(bars, "close")
        pairs: list[pl.Series] = []
        for name, h in zip(self.columns, self.horizons_bars, strict=True):
            touched, last_bar = touch_after_entry(bars, volatility, above=above, below=below, horizon_bars=h)
            won = touched == np.where(long, UPPER, -UPPER)
            at_barrier = np.where(won, self.profit_multiplier, -self.loss_multiplier) * volatility
            earned = np.where(touched == NEITHER, side * (ahead(close, h) / entry - 1.0), at_barrier)
            values = np.where(np.isnan(earned), np.nan, (earned > self.cost_bps / 1e4).astype(np.float64))
            pairs += label_pair(name, values, known_at(bars, last_bar, timeframe))
        return pl.DataFrame(pairs)
