"""The intraday set: the core set and the hour of the day."""

from __future__ import annotations

from quantfleet.contracts import FeatureSet
from quantfleet_data.features.calendar import HourOfDay
from quantfleet_data.features.sets.core import core_v2
from quantfleet_data.features.sets.registry import register_feature_set

__all__ = ["intraday_v2"]


@register_feature_set("intraday")
def intraday_v2() -> FeatureSet:
    """The core set and the hour of the day, which daily bars do not have."""
    hours = (HourOfDay(wave="sin"), HourOfDay(wave="cos"))
    return FeatureSet(name="intraday", version=2, features=(*core_v2().features, *hours))
