"""Named, versioned feature sets, one file each; importing this package registers all.

A set that changes gets a new version, never a silent edit: its digest is recorded. A new set is a file here that
registers it, and an import below.
"""

from quantfleet_data.features.sets.alpha158 import alpha158_v1
from quantfleet_data.features.sets.candles import candles_v1
from quantfleet_data.features.sets.core import core_v2
from quantfleet_data.features.sets.indicators import indicators_v1, sixty_indicators
from quantfleet_data.features.sets.intraday import intraday_v2
from quantfleet_data.features.sets.market import cross_section_v1, relative_v1
from quantfleet_data.features.sets.multi_timeframe import (
    multi_timeframe_1d_v1,
    multi_timeframe_1h_v1,
    multi_timeframe_1m_v1,
    multi_timeframe_5m_v1,
)
from quantfleet_data.features.sets.registry import feature_set, feature_set_names, register_feature_set
from quantfleet_data.features.sets.signals import signals_v1
from quantfleet_data.features.sets.structure import structure_v1

__all__ = [
    "alpha158_v1",
    "candles_v1",
    "core_v2",
    "cross_section_v1",
    "feature_set",
    "feature_set_names",
    "indicators_v1",
    "intraday_v2",
    "multi_timeframe_1d_v1",
    "multi_timeframe_1h_v1",
    "multi_timeframe_1m_v1",
    "multi_timeframe_5m_v1",
    "register_feature_set",
    "relative_v1",
    "signals_v1",
    "sixty_indicators",
    "structure_v1",
]
