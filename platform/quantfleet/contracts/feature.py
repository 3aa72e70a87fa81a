"""The feature contract: a causal column of numbers computed from one symbol's bars.

Time: the value at row t uses bars 0..t of that symbol only, so it is known at `timestamp[t] + timeframe`. Cutting the
future off changes nothing, to the bit; nor does computing the column in parts, bar by bar or day by day.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.config.plain import fingerprint
from quantfleet.errors import ConfigError, DataError
from quantfleet.plugins import PluginConfig, PluginRegistry

__all__ = ["FEATURES", "FeatureConfig", "FeatureSet", "FeatureState", "Scaling", "register_feature"]

FeatureState: TypeAlias = npt.NDArray[np.float64]
"""What a feature remembers between two calls of `advance`: flat float64, empty for a feature of its window alone."""

Scaling: TypeAlias = Literal["invariant", "price", "volume", "none"]
"""What another unit of the prices, or of the volumes, does to a feature: nothing; the prices' factor multiplies it and
the volumes' does not; the volumes' does and the prices' does not; or no promise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureConfig(PluginConfig):
    """Base config of every feature: a frozen set of parameters that names its column and computes it."""

    recursive: ClassVar[bool] = False
    """False: the value is a function of its last `lookback_bars` bars alone, to the bit, wherever the history starts.
    True: older bars count too (averages that fade, sums since midnight); then `advance` is overridden."""
    scaling: ClassVar[Scaling] = "invariant"
    """What another unit of prices or volumes does to it; a property test holds every registered feature to it."""

    @property
    @abstractmethod
    def column(self) -> str:
        """Name of the column, parameters included: `rsi_14`."""

    @property
    @abstractmethod
    def lookback_bars(self) -> int:
        """Bars of history, the current one included, before the value is defined; earlier rows are NaN."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Bar columns it reads; beyond BAR_COLUMNS they are joined by the job first (`index_close`, book columns)."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Where the definition comes from: a library call, paper or equation."""

    @abstractmethod
    def compute(self, bars: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Return shape (T,) float64 for the T bars of one symbol, NaN where undefined.

        Args:
            bars: BAR_COLUMNS of one symbol, sorted by time, no gap filled.
        """

    def advance(
        self, bars: pl.DataFrame, new_bars: int, state: FeatureState | None
    ) -> tuple[npt.NDArray[np.float64], FeatureState]:
        """Compute the newest bars only. Over any partition of a history the parts equal `compute` on it, to the bit.

        Args:
            bars: the newest bars of one symbol, sorted by time. The last `new_bars` are new; before them stand at
                least `lookback_bars - 1` known ones, or all there are.
            new_bars: how many are new, 1 or more.
            state: what `advance` returned at the bar before the new ones. None: nothing is known yet.
        Returns: shape (new_bars,) float64, and the state after the last bar.
        Raises: DataError: the arguments contradict each other, or the state is of another feature.
        """
        self.check_advance(bars, new_bars, state)
        if self.recursive:
            raise ConfigError(
                f"feature {self.column!r} is recursive but cannot be advanced: {type(self).__name__} must override "
                "`advance` and carry in its state what older bars left behind."
            )
        return self.compute(bars)[bars.height - new_bars :], np.empty(0)

    def check_advance(self, bars: pl.DataFrame, new_bars: int, state: FeatureState | None) -> None:
        """Refuse arguments of `advance` that contradict each other.

        Raises: DataError: no new bar, more new bars than bars, or known bars without a state.
        """
        if not 1 <= new_bars <= bars.height:
            raise DataError(
                f"feature {self.column!r} cannot advance by new_bars={new_bars} with {bars.height} bars at hand; "
                f"pass 1 to {bars.height}.",
                feature=self.column,
                new_bars=new_bars,
                bars=bars.height,
            )
        if state is None and new_bars != bars.height:
            raise DataError(
                f"feature {self.column!r} has no state, yet {bars.height - new_bars} of {bars.height} bars are not "
                "new; pass the state of the last of them, or call all bars new.",
                feature=self.column,
                new_bars=new_bars,
                bars=bars.height,
            )


FEATURES: PluginRegistry[FeatureConfig] = PluginRegistry("feature", FeatureConfig, command="features")
register_feature = FEATURES.register


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSet:
    """An ordered, named, versioned list of features; `digest` identifies exactly this list."""

    name: str
    version: int
    features: tuple[FeatureConfig, ...]

    def __post_init__(self) -> None:
        if not self.features:
            raise ConfigError(f"feature set {self.name!r} lists no features.")
        columns = self.columns
        doubled = sorted({c for c in columns if columns.count(c) > 1})
        if doubled:
            raise ConfigError(f"feature set {self.name!r} computes {', '.join(doubled)} twice; list each feature once.")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f.column for f in self.features)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Bar columns the features read together, sorted."""
        return tuple(sorted({name for f in self.features for name in f.inputs}))

    @property
    def lookback_bars(self) -> int:
        """Bars needed before every feature is defined."""
        return max(f.lookback_bars for f in self.features)

    @property
    def digest(self) -> str:
        """16 hex digits over name, version and every feature's kind and parameters, in order."""
        return fingerprint("feature-set", self.name, self.version, list(self.features))
