"""qlib's Alpha158 as a set: exactly its 158 columns, in its order."""

from __future__ import annotations

from quantfleet.contracts import FeatureSet
from quantfleet_data.features.alpha158 import ALPHA158_BAR_OPERATORS, ALPHA158_OPERATORS, Alpha158, Alpha158Bar
from quantfleet_data.features.sets.registry import register_feature_set

__all__ = ["alpha158_v1"]

WINDOWS_BARS = (5, 10, 20, 30, 60)


@register_feature_set("alpha158")
def alpha158_v1() -> FeatureSet:
    """The 158 published features of qlib (9 shapes of the bar, 4 prices, 29 operators x 5 windows), for daily bars first.

    Windows are in bars, so they fit any timeframe; the published results are of daily bars.
    """
    shapes = tuple(Alpha158Bar(operator=operator) for operator in ALPHA158_BAR_OPERATORS)
    moving = tuple(Alpha158(operator=operator, bars=bars) for operator in ALPHA158_OPERATORS for bars in WINDOWS_BARS)
    return FeatureSet(name="alpha158", version=1, features=(*shapes, *moving))
