"""Which numbers an order book is summed up in, and what each of them means."""

from __future__ import annotations

import math
from dataclasses import dataclass

from quantfleet.errors import ConfigError

__all__ = ["BookFeaturesConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BookFeaturesConfig:
    """What to measure. Levels are counted from the best price of each side, distances from the mid in basis points.

    With best bid b and ask a, amounts B and A resting there, mid m = (a + b) / 2:

    best_bid, best_ask, mid: prices.
    spread_bps: 10^4 (a - b) / m.
    microprice: (a B + b A) / (A + B), the mid weighted towards the side that will give way first. Source: Gatheral and
        Oomen (2010), "Zero-intelligence realized variance estimation", 2; Stoikov (2018), "The micro-price", eq. 2.
    microprice_bps: 10^4 (microprice / m - 1); its scale-free form.
    depth_bid_K, depth_ask_K: amount on the best K levels, base asset.
    imbalance_K: (bid - ask) / (bid + ask) of these, -1 to 1. Source: Cao, Hansch and Wang (2009), "The information
        content of an open limit-order book", 2.
    depth_bid_Xbps, depth_ask_Xbps, imbalance_Xbps: the same over the levels no further than X bps from the mid.
    slope_bid_K, slope_ask_K: how fast depth grows with distance, base asset per bps: the least-squares line through the
        origin of cumulative amount q_i on distance d_i of level i, sum d_i q_i / sum d_i^2 over the best K levels. It is
        the order-book slope of Naes and Skjeltorp (2006), "Order book characteristics and the volume-volatility
        relation", eq. 1, without its logarithms, which amounts below one unit do not have.
    slope_imbalance_K: (bid - ask) / (bid + ask) of these.
    levels_bid, levels_ask: how many levels there are.

    Fewer than K levels: what there is counts. A side without any level: everything but the amounts, levels and the other
    side's best price is NaN.
    """

    levels: tuple[int, ...] = (1, 5, 20)
    """K of depth and imbalance."""
    within_bps: tuple[float, ...] = (5.0, 25.0)
    """X of depth and imbalance."""
    slope_levels: tuple[int, ...] = (10,)

    def __post_init__(self) -> None:
        for name in ("levels", "within_bps", "slope_levels"):
            values = getattr(self, name)
            if not all(math.isfinite(v) and v > 0 for v in values) or len(set(values)) != len(values):
                raise ConfigError(f"order book features: {name}={values} must be different positive numbers.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the measures, in the order the replay computes them."""
        names = [
            "best_bid",
            "best_ask",
            "mid",
            "spread_bps",
            "microprice",
            "microprice_bps",
            "levels_bid",
            "levels_ask",
        ]
        for tag in (*(str(k) for k in self.levels), *(f"{x:g}bps" for x in self.within_bps)):
            names += [f"depth_bid_{tag}", f"depth_ask_{tag}", f"imbalance_{tag}"]
        for k in self.slope_levels:
            names += [f"slope_bid_{k}", f"slope_ask_{k}", f"slope_imbalance_{k}"]
        return tuple(names)
