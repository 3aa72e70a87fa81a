"""Causal features of one symbol's bars. Importing this package registers all: `sets` imports every theme's file."""

from quantfleet_data.features.base import Feature, KernelFeature
from quantfleet_data.features.book import BookMeasure
from quantfleet_data.features.compute import advance_features, compute_features, compute_panel, one_symbol
from quantfleet_data.features.config import FeaturesConfig
from quantfleet_data.features.cross_section import CrossSectionConfig
from quantfleet_data.features.leakage import assert_causal, assert_causal_across, spread_cuts
from quantfleet_data.features.multi_timeframe import OnTimeframe, check_base
from quantfleet_data.features.sets import (
    core_v2,
    feature_set,
    feature_set_names,
    indicators_v1,
    intraday_v2,
    register_feature_set,
    sixty_indicators,
)

__all__ = [
    "BookMeasure",
    "CrossSectionConfig",
    "Feature",
    "FeaturesConfig",
    "KernelFeature",
    "OnTimeframe",
    "advance_features",
    "assert_causal",
    "assert_causal_across",
    "check_base",
    "compute_features",
    "compute_panel",
    "core_v2",
    "feature_set",
    "feature_set_names",
    "indicators_v1",
    "intraday_v2",
    "one_symbol",
    "register_feature_set",
    "sixty_indicators",
    "spread_cuts",
]
