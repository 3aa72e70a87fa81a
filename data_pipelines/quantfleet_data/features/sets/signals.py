"""The signal set: 28 features of trend, runs, volume, order flow, volatility and the clock, for any timeframe."""

from __future__ import annotations

from quantfleet.contracts import FeatureSet
from quantfleet_data.features.alpha158 import Alpha158Bar
from quantfleet_data.features.bands import BollingerB
from quantfleet_data.features.calendar import DayOfWeek, HourOfDay
from quantfleet_data.features.levels import AtrMove, DistanceToExtreme
from quantfleet_data.features.microstructure import TradeImbalance, Vpin
from quantfleet_data.features.momentum import RelativeStrengthIndex, StochasticK
from quantfleet_data.features.returns import OpenGap
from quantfleet_data.features.sets.registry import register_feature_set
from quantfleet_data.features.signals import EmaAlignment, EmaSlope, RunLength
from quantfleet_data.features.trend import CloseEmaRatio, MacdHistogram
from quantfleet_data.features.volatility import VolatilityRatio
from quantfleet_data.features.volume import VolumeRatio, VolumeZScore

__all__ = ["signals_v1"]


@register_feature_set("signals")
def signals_v1() -> FeatureSet:
    """28 signals: what a short-term trader watches, each on one scale for every symbol.

    Trend (close against EMA 9, 21, 50, their order and slope), runs up and down, volume (ratio, z-score), order flow
    (bulk-classified imbalance, VPIN), moves in true ranges, distance to the 20-bar high and low, oscillators (RSI, MACD,
    Bollinger %b, place in the 50-bar range), the bar's body and shadows, its gap, the volatility regime, and the clock.
    """
    return FeatureSet(
        name="signals",
        version=1,
        features=(
            CloseEmaRatio(bars=9),
            CloseEmaRatio(bars=21),
            CloseEmaRatio(bars=50),
            EmaAlignment(fast_bars=9, middle_bars=21, slow_bars=50),
            EmaSlope(bars=21, slope_bars=5),
            RunLength(direction="up", bars=10),
            RunLength(direction="down", bars=10),
            VolumeRatio(fast_bars=1, slow_bars=20),
            VolumeZScore(bars=21),
            TradeImbalance(bars=21, deviation_bars=21),
            Vpin(bars=50, buckets=10, deviation_bars=21),
            AtrMove(move_bars=1, range_bars=14),
            AtrMove(move_bars=5, range_bars=14),
            DistanceToExtreme(side="high", bars=20),
            DistanceToExtreme(side="low", bars=20),
            RelativeStrengthIndex(bars=14),
            MacdHistogram(),
            BollingerB(bars=20, width=2.0),
            StochasticK(bars=50),
            Alpha158Bar(operator="kmid2"),
            Alpha158Bar(operator="kup2"),
            Alpha158Bar(operator="klow2"),
            OpenGap(),
            VolatilityRatio(fast_bars=5, slow_bars=63),
            HourOfDay(wave="sin"),
            HourOfDay(wave="cos"),
            DayOfWeek(wave="sin"),
            DayOfWeek(wave="cos"),
        ),
    )
