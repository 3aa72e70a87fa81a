"""The core set: one symbol's own bars, any timeframe."""

from __future__ import annotations

from quantfleet.contracts import FeatureSet
from quantfleet_data.features.bands import AtrRatio, BollingerB, BollingerWidth
from quantfleet_data.features.calendar import DayOfMonth, DayOfWeek, MonthOfYear
from quantfleet_data.features.directional import AroonOscillator, AverageDirectionalIndex
from quantfleet_data.features.momentum import (
    CommodityChannelIndex,
    RateOfChange,
    RelativeStrengthIndex,
    StochasticD,
    StochasticK,
    WilliamsR,
)
from quantfleet_data.features.returns import IntradayReturn, LogReturn, OpenGap
from quantfleet_data.features.sets.registry import register_feature_set
from quantfleet_data.features.trend import (
    CloseEmaRatio,
    CloseSmaRatio,
    MacdHistogram,
    SmaRatio,
)
from quantfleet_data.features.volatility import (
    GarmanKlass,
    Parkinson,
    RealisedVolatility,
    VolatilityRatio,
)
from quantfleet_data.features.volume import ChaikinMoneyFlow, ObvSlope, VolumeRatio, VolumeZScore

__all__ = ["core_v2"]


@register_feature_set("core")
def core_v2() -> FeatureSet:
    """35 features of one symbol's own bars, for any timeframe: week, month and quarter in bars of a trading day.

    Each adds something the others do not span: %R looks over a quarter, since over the window of %K it is %K again.
    """
    return FeatureSet(
        name="core",
        version=2,
        features=(
            LogReturn(bars=1),
            LogReturn(bars=5),
            LogReturn(bars=21),
            OpenGap(),
            IntradayReturn(),
            CloseSmaRatio(bars=21),
            CloseEmaRatio(bars=21),
            SmaRatio(fast_bars=5, slow_bars=21),
            SmaRatio(fast_bars=50, slow_bars=200),
            MacdHistogram(),
            AverageDirectionalIndex(bars=14),
            AroonOscillator(bars=25),
            RelativeStrengthIndex(bars=14),
            StochasticK(bars=14),
            StochasticD(bars=14, smooth_bars=3),
            WilliamsR(bars=63),
            RateOfChange(bars=63),
            CommodityChannelIndex(bars=20),
            RealisedVolatility(bars=5),
            RealisedVolatility(bars=21),
            VolatilityRatio(fast_bars=5, slow_bars=63),
            AtrRatio(bars=14),
            Parkinson(bars=21),
            GarmanKlass(bars=21),
            BollingerB(bars=20, width=2.0),
            BollingerWidth(bars=20, width=2.0),
            VolumeZScore(bars=21),
            VolumeRatio(fast_bars=5, slow_bars=63),
            ObvSlope(bars=21),
            ChaikinMoneyFlow(bars=21),
            DayOfWeek(wave="sin"),
            DayOfWeek(wave="cos"),
            MonthOfYear(wave="sin"),
            MonthOfYear(wave="cos"),
            DayOfMonth(),
        ),
    )
