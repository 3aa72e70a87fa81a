"""A symbol against all others of the same bar: cross-sectional rank and z-score of any other feature.

These columns cannot be computed from one symbol's bars. The feature job works in two phases: `of` per symbol, then
`across` over all symbols' values. A symbol takes part at a time when it has a bar and `of` has a value there; nothing is
filled forward, so the values at a time are known when the bars of that time are.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NoReturn

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from quantfleet.contracts import FeatureConfig, register_feature
from quantfleet.contracts.feature import Scaling
from quantfleet.errors import ConfigError, SchemaError
from quantfleet_data.features.returns import LogReturn
from quantfleet_data.features.windows import Array

__all__ = ["CrossRank", "CrossSectionConfig", "CrossZScore"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossSectionConfig(FeatureConfig):
    """Base of the features that compare symbols: what is compared, and how many symbols a comparison needs."""

    of: FeatureConfig = field(default_factory=lambda: LogReturn(bars=1))
    """The feature that is compared."""
    min_symbols: int = 5
    """A time with fewer values is NaN for all."""
    scaling: ClassVar[Scaling] = "none"
    """A symbol whose own unit changes may change places; one unit for all symbols changes nothing."""

    def __post_init__(self) -> None:
        if isinstance(self.of, CrossSectionConfig):
            raise ConfigError(f"feature {self.kind}: `of` is {self.of.column!r}, which compares symbols already.")
        if self.min_symbols < 2:
            raise ConfigError(f"feature {self.kind}: min_symbols={self.min_symbols} compares nothing; set it to >= 2.")

    @property
    def column(self) -> str:
        return f"{self.kind}_{self.of.column}"

    @property
    def lookback_bars(self) -> int:
        return self.of.lookback_bars

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.of.inputs

    def compute(self, bars: pl.DataFrame) -> NoReturn:
        """Raises: ConfigError: always; one symbol has no cross-section."""
        raise ConfigError(
            f"feature {self.column!r} compares symbols, so it cannot be computed from the bars of one. Compute "
            f"{self.of.column!r} for each symbol, then pass all their values to `across`; the feature job does both."
        )

    def across(self, values: pl.DataFrame) -> pl.DataFrame:
        """Compare the values of all symbols at each time.

        Args:
            values: `timestamp`, `symbol` and `value` (of the feature `of`), one row per pair, in any order. A null or NaN
                does not take part and stays NaN.
        Returns: the same rows in the same order, `value` replaced. What a time gets depends on the rows of that time
            alone, to the bit.
        Raises: SchemaError: a column is missing, or a pair of time and symbol stands there twice.
        """
        for name in ("timestamp", "symbol", "value"):
            if name not in values.columns:
                raise SchemaError(
                    f"the values to compare for {self.column!r} have no column {name!r}; they have: "
                    f"{', '.join(values.columns)}.",
                    column=name,
                )
        ordered = values.with_row_index("row_").sort("timestamp", "symbol")
        doubled = ordered.filter(ordered.select("timestamp", "symbol").is_duplicated())
        if not doubled.is_empty():
            raise SchemaError(
                f"the values to compare for {self.column!r} hold {doubled['symbol'][0]} twice at "
                f"{doubled['timestamp'][0]}; pass one value per time and symbol.",
                rows=doubled.height,
            )
        times = ordered["timestamp"]
        stops = (times != times.shift(-1)).fill_null(True).arg_true().cast(pl.Int64).to_numpy() + 1
        own = np.ascontiguousarray(ordered["value"].cast(pl.Float64).to_numpy())
        compared = np.full(own.shape, np.nan)
        self.compare(own, stops, compared)
        result = np.empty(own.shape)
        result[ordered["row_"].to_numpy()] = compared
        return values.with_columns(value=pl.Series(result, dtype=pl.Float64))

    @abstractmethod
    def compare(self, values_R: Array, stops: npt.NDArray[np.int64], out_R: Array) -> None:
        """Fill `out_R` group by group; `stops` are the ends of the groups of `values_R`, which may hold NaN."""


@register_feature("cross_rank")
@dataclass(frozen=True, kw_only=True, slots=True)
class CrossRank(CrossSectionConfig):
    """Rank of the symbol among all at that time: 0 smallest, 1 largest, ties share their average rank."""

    @property
    def source(self) -> str:
        return f"(rank - 1) / (n - 1) of {self.of.column}: Grinold & Kahn (2000), Active Portfolio Management, ch. 14"

    def compare(self, values_R: Array, stops: npt.NDArray[np.int64], out_R: Array) -> None:
        _ranks(values_R, stops, self.min_symbols, out_R)


@register_feature("cross_zscore")
@dataclass(frozen=True, kw_only=True, slots=True)
class CrossZScore(CrossSectionConfig):
    """Distance from the mean of all symbols at that time, in their population standard deviations; 0 if all are equal."""

    @property
    def source(self) -> str:
        return f"z-score over symbols of {self.of.column}: Grinold & Kahn (2000), Active Portfolio Management, ch. 14"

    def compare(self, values_R: Array, stops: npt.NDArray[np.int64], out_R: Array) -> None:
        _zscores(values_R, stops, self.min_symbols, out_R)


@njit(cache=True, nogil=True)
def _ranks(values_R: Array, stops: npt.NDArray[np.int64], smallest: int, out_R: Array) -> None:
    start = 0
    for stop in stops:
        group = values_R[start:stop]
        order = np.argsort(group)  # NaN last
        count = 0
        for i in range(group.size):
            count += 0 if np.isnan(group[i]) else 1
        if count >= smallest:
            first = 0
            while first < count:
                last = first
                while last + 1 < count and group[order[last + 1]] == group[order[first]]:
                    last += 1
                for i in range(first, last + 1):
                    out_R[start + order[i]] = (first + last) / 2.0 / (count - 1)
                first = last + 1
        start = stop


@njit(cache=True, nogil=True)
def _zscores(values_R: Array, stops: npt.NDArray[np.int64], smallest: int, out_R: Array) -> None:
    start = 0
    for stop in stops:
        count, origin, mean, squares = 0, 0.0, 0.0, 0.0
        for i in range(start, stop):
            if not np.isnan(values_R[i]):
                origin = values_R[i] if count == 0 else origin
                mean += values_R[i] - origin  # from one of them, so that equal values give exact zeros
                count += 1
        if count >= smallest:
            mean /= count
            for i in range(start, stop):
                if not np.isnan(values_R[i]):
                    squares += ((values_R[i] - origin) - mean) ** 2
            deviation = np.sqrt(squares / count)
            for i in range(start, stop):
                if not np.isnan(values_R[i]):
                    out_R[i] = ((values_R[i] - origin) - mean) / deviation if deviation > 0.0 else 0.0
        start = stop
