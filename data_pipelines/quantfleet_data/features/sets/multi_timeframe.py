"""The same features on longer bars, as of the last closed one: a set for each timeframe the bars table may have."""

from __future__ import annotations

from quantfleet.contracts import FeatureConfig, FeatureSet
from quantfleet_data.features.bands import BollingerB
from quantfleet_data.features.levels import Level, PriorPeriodLevel
from quantfleet_data.features.momentum import StochasticK
from quantfleet_data.features.multi_timeframe import OnTimeframe
from quantfleet_data.features.range_volatility import YangZhang
from quantfleet_data.features.returns import LogReturn
from quantfleet_data.features.sets.registry import register_feature_set
from quantfleet_data.features.trend import CloseSmaRatio
from quantfleet_data.features.volume import VolumeZScore

__all__ = ["multi_timeframe_1d_v1", "multi_timeframe_1h_v1", "multi_timeframe_1m_v1", "multi_timeframe_5m_v1"]

REPEATED: tuple[FeatureConfig, ...] = (
    LogReturn(bars=1),
    LogReturn(bars=5),
    CloseSmaRatio(bars=10),
    StochasticK(bars=10),
    BollingerB(bars=10),
    YangZhang(bars=10),
    VolumeZScore(bars=10),
)
"""What is repeated on each timeframe: short windows and no averages that fade, since every longer bar of look-back takes
many of the table's bars."""
LEVELS: tuple[Level, ...] = ("high", "low", "pivot")


def _on(base: str, timeframes: tuple[str, ...], *, levels: str) -> tuple[FeatureConfig, ...]:
    longer = tuple(OnTimeframe(of=of, timeframe=timeframe, base=base) for timeframe in timeframes for of in REPEATED)
    return (*longer, *(PriorPeriodLevel(level=level, timeframe=levels, base=base) for level in LEVELS))


@register_feature_set("multi_timeframe_1m")
def multi_timeframe_1m_v1() -> FeatureSet:
    """For a table of 1-minute bars: 7 features on 5m, 15m, 1h and 4h, levels of the hour before."""
    return FeatureSet(name="multi_timeframe_1m", version=1, features=_on("1m", ("5m", "15m", "1h", "4h"), levels="1h"))


@register_feature_set("multi_timeframe_5m")
def multi_timeframe_5m_v1() -> FeatureSet:
    """For a table of 5-minute bars: 7 features on 15m, 1h, 4h and 1d, levels of the day before."""
    return FeatureSet(name="multi_timeframe_5m", version=1, features=_on("5m", ("15m", "1h", "4h", "1d"), levels="1d"))


@register_feature_set("multi_timeframe_1h")
def multi_timeframe_1h_v1() -> FeatureSet:
    """For a table of hourly bars: 7 features on 4h, 1d and 1w, levels of the day before."""
    return FeatureSet(name="multi_timeframe_1h", version=1, features=_on("1h", ("4h", "1d", "1w"), levels="1d"))


@register_feature_set("multi_timeframe_1d")
def multi_timeframe_1d_v1() -> FeatureSet:
    """For a table of daily bars: 7 features on 1w and 1M, levels of the week before."""
    return FeatureSet(name="multi_timeframe_1d", version=1, features=_on("1d", ("1w", "1M"), levels="1w"))
