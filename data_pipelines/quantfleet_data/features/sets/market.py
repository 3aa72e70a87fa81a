"""Features that need more than one symbol: against an index, and among all symbols of the same bar."""

from __future__ import annotations

from quantfleet.contracts import FeatureSet
from quantfleet_data.features.cross_section import CrossRank, CrossZScore
from quantfleet_data.features.microstructure import Amihud
from quantfleet_data.features.relative import (
    IdiosyncraticVolatility,
    IndexAlpha,
    IndexBeta,
    IndexCorrelation,
    RelativeStrength,
)
from quantfleet_data.features.returns import LogReturn
from quantfleet_data.features.sets.registry import register_feature_set
from quantfleet_data.features.volatility import RealisedVolatility
from quantfleet_data.features.volume import VolumeRatio

__all__ = ["cross_section_v1", "relative_v1"]


@register_feature_set("relative")
def relative_v1() -> FeatureSet:
    """7 features against an index; the bars need the column `index_close`, which the job joins."""
    return FeatureSet(
        name="relative",
        version=1,
        features=(
            RelativeStrength(bars=5),
            RelativeStrength(bars=21),
            RelativeStrength(bars=63),
            IndexBeta(bars=63),
            IndexAlpha(bars=63),
            IndexCorrelation(bars=63),
            IdiosyncraticVolatility(bars=63),
        ),
    )


@register_feature_set("cross_section")
def cross_section_v1() -> FeatureSet:
    """9 ranks and z-scores among all symbols of the same bar: return, volatility, volume, liquidity."""
    return FeatureSet(
        name="cross_section",
        version=1,
        features=(
            CrossRank(of=LogReturn(bars=1)),
            CrossRank(of=LogReturn(bars=5)),
            CrossRank(of=LogReturn(bars=21)),
            CrossZScore(of=LogReturn(bars=1)),
            CrossZScore(of=LogReturn(bars=21)),
            CrossRank(of=RealisedVolatility(bars=21)),
            CrossZScore(of=RealisedVolatility(bars=21)),
            CrossRank(of=VolumeRatio(fast_bars=5, slow_bars=63)),
            CrossRank(of=Amihud(bars=21)),
        ),
    )
