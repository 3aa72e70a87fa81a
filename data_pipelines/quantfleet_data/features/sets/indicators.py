"""The indicators set: sixty classical indicators, all of them formulas of the compiled kernels, and the calendar."""

from __future__ import annotations

from quantfleet.contracts import FeatureSet
from quantfleet_data.features.bands import (
    AtrRatio,
    BollingerB,
    BollingerWidth,
    DonchianPlace,
    DonchianWidth,
    KeltnerB,
    KeltnerWidth,
    TrueRangeRatio,
)
from quantfleet_data.features.base import KernelFeature
from quantfleet_data.features.calendar import DayOfMonth, DayOfWeek, HourOfDay, MonthOfYear
from quantfleet_data.features.directional import (
    AroonDown,
    AroonOscillator,
    AroonUp,
    AverageDirectionalIndex,
    MinusDirectionalIndicator,
    PlusDirectionalIndicator,
)
from quantfleet_data.features.momentum import (
    BalanceOfPower,
    CommodityChannelIndex,
    RateOfChange,
    RelativeStrengthIndex,
    StochasticD,
    StochasticK,
    StochasticRsiD,
    StochasticRsiK,
    StochasticSlowD,
    UltimateOscillator,
    WilliamsR,
)
from quantfleet_data.features.returns import SimpleReturn
from quantfleet_data.features.sets.registry import register_feature_set
from quantfleet_data.features.trend import (
    CloseDemaRatio,
    CloseEmaRatio,
    CloseKamaRatio,
    CloseSmaRatio,
    CloseTemaRatio,
    MacdHistogram,
    MacdLine,
    MacdSignal,
    PercentagePriceOscillator,
    Trix,
)
from quantfleet_data.features.volume import (
    ChaikinMoneyFlow,
    MoneyFlowIndex,
    ObvSlope,
    SessionVwapRatio,
    VolumeRatio,
    VolumeZScore,
    VwapRatio,
)

__all__ = ["indicators_v1", "sixty_indicators"]


def sixty_indicators() -> tuple[KernelFeature, ...]:
    """What benchmarks A1 and A2 compute: everything of the set but the calendar."""
    return (
        *(SimpleReturn(bars=n) for n in (1, 5, 21)),
        *(RateOfChange(bars=n) for n in (10, 63)),
        *(CloseSmaRatio(bars=n) for n in (5, 10, 20, 50, 100, 200)),
        *(CloseEmaRatio(bars=n) for n in (5, 9, 12, 21, 26, 34, 50, 100)),
        CloseDemaRatio(bars=20),
        CloseTemaRatio(bars=20),
        CloseKamaRatio(bars=10),
        Trix(bars=15),
        MacdLine(),
        MacdSignal(),
        MacdHistogram(),
        PercentagePriceOscillator(),
        AverageDirectionalIndex(bars=14),
        PlusDirectionalIndicator(bars=14),
        MinusDirectionalIndicator(bars=14),
        AroonUp(bars=25),
        AroonDown(bars=25),
        AroonOscillator(bars=25),
        RelativeStrengthIndex(bars=7),
        RelativeStrengthIndex(bars=14),
        StochasticK(bars=5),
        StochasticD(bars=5, smooth_bars=3),
        StochasticD(bars=14, smooth_bars=3),
        StochasticSlowD(bars=14, smooth_bars=3, signal_bars=3),
        StochasticRsiK(rsi_bars=14, bars=14),
        StochasticRsiD(rsi_bars=14, bars=14, smooth_bars=3),
        WilliamsR(bars=28),
        CommodityChannelIndex(bars=20),
        UltimateOscillator(),
        MoneyFlowIndex(bars=14),
        AtrRatio(bars=14),
        TrueRangeRatio(),
        BollingerB(bars=20, width=2.0),
        BollingerWidth(bars=20, width=2.0),
        KeltnerB(),
        KeltnerWidth(),
        DonchianPlace(bars=20),
        DonchianWidth(bars=20),
        ObvSlope(bars=20),
        VwapRatio(bars=20),
        SessionVwapRatio(),
        ChaikinMoneyFlow(bars=20),
        VolumeRatio(fast_bars=5, slow_bars=20),
        VolumeZScore(bars=20),
        BalanceOfPower(),
    )


@register_feature_set("indicators")
def indicators_v1() -> FeatureSet:
    """The sixty indicators a technical analyst knows, and where the bar lies in day, week, month and year.

    Some tell the same twice (%K, %R and %b are all places of the close); take it where selection follows.
    """
    calendar = (
        *(HourOfDay(wave=wave) for wave in ("sin", "cos")),
        *(DayOfWeek(wave=wave) for wave in ("sin", "cos")),
        *(MonthOfYear(wave=wave) for wave in ("sin", "cos")),
        DayOfMonth(),
    )
    return FeatureSet(name="indicators", version=1, features=(*sixty_indicators(), *calendar))
