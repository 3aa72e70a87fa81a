"""Regimes known at the close of their bar: stored beside the labels, for stratified splits and sampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from quantfleet.errors import ConfigError
from quantfleet_data.features.windows import Array
from quantfleet_data.labels.future import check_volatility_bars, trailing_volatility

__all__ = ["VolatilityRegime"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VolatilityRegime:
    """Which share of its own past the trailing volatility exceeds: 0 calm .. regimes-1 wild (terciles by default).

    The volatility at bar t is ranked among those of the symbol's bars up to t, never later ones, so a bar's regime is known at its
    close and stays what it was. Equal volatilities count half. Null during the first `warm_up_bars` volatilities.
    """

    regimes: int = 3
    volatility_bars: int = 21
    """Log returns whose root mean square is the volatility."""
    warm_up_bars: int = 63
    """Volatilities to rank among before the first regime."""

    def __post_init__(self) -> None:
        if not 2 <= self.regimes <= 100:
            raise ConfigError(f"labels.regime.regimes={self.regimes} must lie between 2 and 100.")
        check_volatility_bars("regime", self.volatility_bars)
        if self.warm_up_bars < self.regimes:
            raise ConfigError(
                f"labels.regime.warm_up_bars={self.warm_up_bars} must be at least regimes={self.regimes}: so many volatilities "
                "are needed to tell them apart."
            )

    def compute(self, bars: pl.DataFrame) -> pl.Series:
        """Regime of each bar of one symbol, sorted by time: Int16, null where unknown. O(T log T)."""
        volatility = trailing_volatility(bars, self.volatility_bars)
        known = np.flatnonzero(~np.isnan(volatility))
        share = _share_below(volatility[known])
        regime = np.full(bars.height, -1, np.int16)
        regime[known] = np.minimum(share * self.regimes, self.regimes - 1).astype(np.int16)
        regime[known[: self.warm_up_bars]] = -1
        return pl.Series("regime", regime).replace(-1, None)


def _share_below(x_N: Array) -> Array:
    """Share of x[0..i] that lies below x[i], ties counting half; bits depend on x[0..i] alone."""
    _, place = np.unique(x_N, return_inverse=True)
    share: Array = _ranked(place.astype(np.int64), int(place.max()) + 1 if place.size else 0)
    return share


@njit(cache=True, nogil=True)
def _ranked(place: npt.NDArray[np.int64], places: int) -> Array:
    """A Fenwick tree over the sorted values counts those met so far."""
    tree = np.zeros(places + 1, np.int64)
    met = np.zeros(places, np.int64)
    share = np.empty(place.size)
    for i in range(place.size):
        below, node = 0, place[i]
        while node > 0:
            below += tree[node]
            node &= node - 1
        met[place[i]] += 1
        node = place[i] + 1
        while node <= places:
            tree[node] += 1
            node += node & -node
        share[i] = (below + 0.5 * met[place[i]]) / (i + 1)
    return share
