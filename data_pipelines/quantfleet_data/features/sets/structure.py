"""The structure set: what the other sets do not measure - levels, profile, moments, memory, liquidity."""

from __future__ import annotations

from quantfleet.contracts import FeatureSet
from quantfleet_data.features.fractional import FractionalDifference
from quantfleet_data.features.levels import SwingAge, SwingDistance
from quantfleet_data.features.microstructure import Amihud, CorwinSchultz, KyleLambda, RollSpread, TradeImbalance, Vpin
from quantfleet_data.features.moments import (
    Hurst,
    ReturnAutocorrelation,
    ReturnKurtosis,
    ReturnSkewness,
    VarianceRatio,
)
from quantfleet_data.features.range_volatility import RogersSatchell, YangZhang
from quantfleet_data.features.sets.registry import register_feature_set
from quantfleet_data.features.volume_profile import VolumeProfile

__all__ = ["structure_v1"]


@register_feature_set("structure")
def structure_v1() -> FeatureSet:
    """22 features: swing levels, volume profile, moments and memory of returns, range volatility, liquidity."""
    return FeatureSet(
        name="structure",
        version=1,
        features=(
            SwingDistance(side="high"),
            SwingDistance(side="low"),
            SwingAge(side="high"),
            SwingAge(side="low"),
            VolumeProfile(level="point_of_control"),
            VolumeProfile(level="value_area_high"),
            VolumeProfile(level="value_area_low"),
            ReturnSkewness(bars=63),
            ReturnKurtosis(bars=63),
            ReturnAutocorrelation(bars=63, shift_bars=1),
            ReturnAutocorrelation(bars=63, shift_bars=5),
            VarianceRatio(bars=126, step_bars=5),
            Hurst(bars=126),
            FractionalDifference(order=0.4, threshold=1e-4),
            RogersSatchell(bars=21),
            YangZhang(bars=21),
            TradeImbalance(bars=63, deviation_bars=21),
            Vpin(bars=100, buckets=20, deviation_bars=21),
            Amihud(bars=21),
            KyleLambda(bars=63),
            RollSpread(bars=63),
            CorwinSchultz(bars=21),
        ),
    )
