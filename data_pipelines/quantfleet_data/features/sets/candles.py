"""All candlestick patterns of TA-Lib as a set."""

from __future__ import annotations

from quantfleet.contracts import FeatureSet
from quantfleet_data.features.candles import CANDLE_PATTERNS, CandlePattern
from quantfleet_data.features.sets.registry import register_feature_set

__all__ = ["candles_v1"]


@register_feature_set("candles")
def candles_v1() -> FeatureSet:
    """TA-Lib's 61 candlestick patterns: 1 bullish, -1 bearish, 0 none. Mostly zeros; for trees rather than networks."""
    return FeatureSet(name="candles", version=1, features=tuple(CandlePattern(pattern=p) for p in CANDLE_PATTERNS))
