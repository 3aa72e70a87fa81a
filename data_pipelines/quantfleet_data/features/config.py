"""The `features:` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from quantfleet.contracts import FeatureConfig, FeatureSet
from quantfleet.errors import ConfigError
from quantfleet_data.features.sets import feature_set

__all__ = ["FeaturesConfig"]


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Named sets one after the other, and features of one's own behind them."""

    sets: tuple[str, ...] = ("core",)
    """Names of feature sets; `quantfleet features list` shows them. A feature that several hold is computed once."""
    extra: tuple[FeatureConfig, ...] = ()
    """More features, e.g. `[{kind: rsi, bars: 7}]`, appended in this order."""

    def __post_init__(self) -> None:
        self.resolve()

    def resolve(self) -> FeatureSet:
        """The set to compute. Joined sets are called e.g. "core+alpha158", with two extras "core+2"; each has its own digest.

        Raises: ConfigError: no set of that name, one named twice, nothing to compute, or an extra that a set already holds.
        """
        if len(set(self.sets)) != len(self.sets):
            raise ConfigError(f"features.sets names one set twice: {', '.join(self.sets)}.")
        if not self.sets and not self.extra:
            raise ConfigError("features.sets and features.extra are both empty; name a set such as core.")
        named = [feature_set(name) for name in self.sets]
        if len(named) == 1 and not self.extra:
            return named[0]
        features = dict.fromkeys(feature for one in named for feature in one.features)
        return FeatureSet(
            name="+".join([*self.sets, *([str(len(self.extra))] if self.extra else [])]),
            version=max((one.version for one in named), default=1),
            features=(*features, *self.extra),
        )
