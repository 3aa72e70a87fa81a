"""qlib's Alpha158: 9 shapes of the bar, 4 prices, 29 operators over moving windows. Known at the close of bar t.

The formulas are the published ones, operator names and all (Yang et al. 2020, Qlib: An AI-oriented Quantitative
Investment Platform, arXiv:2009.11189; qlib's `Alpha158DL`). Four things differ, on purpose:

- A value is NaN until its window is full; qlib starts with one bar (min_periods=1), so its first 60 rows are made of
  shorter windows than their names say.
- qlib adds 1e-12 to denominators, which means something else for a price of 1e-6 than for one of 1e6. Here a ratio 0/0
  is 0, as qlib's comes out, at any scale. The current bar's volume being zero makes VMA and VSTD 1e12 times the average
  in qlib; here they are neutral (1 and 0). A correlation or R squared with a constant side is 0; qlib answers NaN.
- A window that holds a null volume is neutral, as for every feature of volume here: VMA is 1, the others 0.
- Bars have no volume-weighted price: VWAP0 takes the typical price (high + low + close) / 3, or a bar column of one's
  own, `vwap_column`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from quantfleet.contracts import register_feature
from quantfleet.contracts.feature import Scaling
from quantfleet.errors import ConfigError, nearest
from quantfleet_data.features.base import Feature
from quantfleet_data.features.rolling import (
    neutral_without_volume,
    rolling_correlation,
    rolling_place_of_max,
    rolling_place_of_min,
    rolling_quantile,
    rolling_rank,
    rolling_trend,
)
from quantfleet_data.features.windows import (
    Array,
    column,
    lag,
    rolling_max,
    rolling_mean,
    rolling_min,
    rolling_std,
    rolling_sum,
    safe_ratio,
)

__all__ = ["ALPHA158_BAR_OPERATORS", "ALPHA158_OPERATORS", "Alpha158", "Alpha158Bar"]

_SOURCE = "qlib Alpha158DL; Yang et al. (2020), Qlib, arXiv:2009.11189"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Operator:
    """One published formula. `work` gets the bars and the window and returns shape (T,)."""

    formula: str
    reads: tuple[str, ...]
    work: Callable[[pl.DataFrame, int], Array]
    before: int = 0
    """Bars it needs before its window: 1 where it works on changes."""
    scaling: Scaling = "invariant"


def _sample_std(x_T: Array, n: int) -> Array:
    return rolling_std(x_T, n) * math.sqrt(n / (n - 1))


def _bar(bars: pl.DataFrame) -> tuple[Array, Array, Array, Array]:
    return column(bars, "open"), column(bars, "high"), column(bars, "low"), column(bars, "close")


def _over_range(part_T: Array, bars: pl.DataFrame) -> Array:
    return safe_ratio(part_T, column(bars, "high") - column(bars, "low"), undefined=0.0)


def _body(bars: pl.DataFrame) -> Array:
    return column(bars, "close") - column(bars, "open")


def _upper(bars: pl.DataFrame) -> Array:
    upper: Array = column(bars, "high") - np.maximum(column(bars, "open"), column(bars, "close"))
    return upper


def _lower(bars: pl.DataFrame) -> Array:
    lower: Array = np.minimum(column(bars, "open"), column(bars, "close")) - column(bars, "low")
    return lower


def _shift(bars: pl.DataFrame) -> Array:
    return 2.0 * column(bars, "close") - column(bars, "high") - column(bars, "low")


def _share_of_moves(x_T: Array, n: int, side: float) -> Array:
    """Moves to one side (1 up, -1 down) or their balance (0) as a share of all movement in the window."""
    change = x_T - lag(x_T, 1)
    part = np.maximum(side * change, 0.0) if side else change
    return safe_ratio(rolling_sum(part, n), rolling_sum(np.abs(change), n), undefined=0.0)


def _share_of_bars(bars: pl.DataFrame, n: int, side: float) -> Array:
    """Bars that closed on one side of the bar before as a share of the window."""
    close = column(bars, "close")
    sign = np.sign(close - lag(close, 1))
    return rolling_mean(np.where(np.isnan(sign), np.nan, sign == side), n)


def _weighted_moves(bars: pl.DataFrame, n: int) -> Array:
    close, volume = column(bars, "close"), column(bars, "volume")
    moved = np.abs(close / lag(close, 1) - 1.0) * volume
    return neutral_without_volume(safe_ratio(_sample_std(moved, n), rolling_mean(moved, n), undefined=0.0), n)


def _over_volume(bars: pl.DataFrame, statistic_T: Array, n: int, neutral: float) -> Array:
    ratio = safe_ratio(statistic_T, column(bars, "volume"), undefined=neutral)
    return neutral_without_volume(ratio, n - 1, neutral=neutral)


def _price_with_volume(bars: pl.DataFrame, n: int) -> Array:
    values = rolling_correlation(column(bars, "close"), np.log(column(bars, "volume") + 1.0), n)
    return neutral_without_volume(values, n - 1)


def _change_with_volume_change(bars: pl.DataFrame, n: int) -> Array:
    close, volume = column(bars, "close"), column(bars, "volume")
    growth = safe_ratio(volume, lag(volume, 1), undefined=np.nan)
    return neutral_without_volume(rolling_correlation(close / lag(close, 1), np.log(growth + 1.0), n), n)


def _volume_moves(side: float) -> Callable[[pl.DataFrame, int], Array]:
    return lambda bars, n: neutral_without_volume(_share_of_moves(column(bars, "volume"), n, side), n)


def _over_close(function: Callable[[Array, int], Array], reads: str = "close") -> Callable[[pl.DataFrame, int], Array]:
    return lambda bars, n: function(column(bars, reads), n) / column(bars, "close")


_HLC = ("high", "low", "close")
_BAR_OPERATORS: dict[str, _Operator] = {
    "kmid": _Operator(
        formula="(close - open) / open", reads=("open", "close"), work=lambda b, _: _body(b) / column(b, "open")
    ),
    "klen": _Operator(
        formula="(high - low) / open",
        reads=("open", "high", "low"),
        work=lambda b, _: (column(b, "high") - column(b, "low")) / column(b, "open"),
    ),
    "kmid2": _Operator(
        formula="(close - open) / (high - low)", reads=("open", *_HLC), work=lambda b, _: _over_range(_body(b), b)
    ),
    "kup": _Operator(
        formula="(high - max(open, close)) / open",
        reads=("open", "high", "close"),
        work=lambda b, _: _upper(b) / column(b, "open"),
    ),
    "kup2": _Operator(
        formula="(high - max(open, close)) / (high - low)",
        reads=("open", *_HLC),
        work=lambda b, _: _over_range(_upper(b), b),
    ),
    "klow": _Operator(
        formula="(min(open, close) - low) / open",
        reads=("open", "low", "close"),
        work=lambda b, _: _lower(b) / column(b, "open"),
    ),
    "klow2": _Operator(
        formula="(min(open, close) - low) / (high - low)",
        reads=("open", *_HLC),
        work=lambda b, _: _over_range(_lower(b), b),
    ),
    "ksft": _Operator(
        formula="(2 close - high - low) / open",
        reads=("open", *_HLC),
        work=lambda b, _: _shift(b) / column(b, "open"),
    ),
    "ksft2": _Operator(
        formula="(2 close - high - low) / (high - low)", reads=_HLC, work=lambda b, _: _over_range(_shift(b), b)
    ),
    "open0": _Operator(
        formula="open / close", reads=("open", "close"), work=lambda b, _: column(b, "open") / column(b, "close")
    ),
    "high0": _Operator(
        formula="high / close", reads=("high", "close"), work=lambda b, _: column(b, "high") / column(b, "close")
    ),
    "low0": _Operator(
        formula="low / close", reads=("low", "close"), work=lambda b, _: column(b, "low") / column(b, "close")
    ),
    "vwap0": _Operator(
        formula="vwap / close",
        reads=_HLC,
        work=lambda b, _: (column(b, "high") + column(b, "low") + column(b, "close")) / 3.0 / column(b, "close"),
    ),
}
ALPHA158_BAR_OPERATORS = tuple(_BAR_OPERATORS)
"""The 13 formulas of one bar, in qlib's order."""

_CLOSE, _VOLUME = ("close",), ("volume",)
_OPERATORS: dict[str, _Operator] = {
    "roc": _Operator(formula="Ref(close, n) / close", reads=_CLOSE, before=1, work=_over_close(lambda x, n: lag(x, n))),
    "ma": _Operator(formula="Mean(close, n) / close", reads=_CLOSE, work=_over_close(rolling_mean)),
    "std": _Operator(formula="Std(close, n) / close, of a sample (n - 1)", reads=_CLOSE, work=_over_close(_sample_std)),
    "beta": _Operator(
        formula="Slope(close, n) / close", reads=_CLOSE, work=_over_close(lambda x, n: rolling_trend(x, n)[0])
    ),
    "rsqr": _Operator(
        formula="Rsquare(close, n)", reads=_CLOSE, work=lambda b, n: rolling_trend(column(b, "close"), n)[1]
    ),
    "resi": _Operator(
        formula="Resi(close, n) / close", reads=_CLOSE, work=_over_close(lambda x, n: rolling_trend(x, n)[2])
    ),
    "max": _Operator(
        formula="Max(high, n) / close", reads=("high", "close"), work=_over_close(rolling_max, reads="high")
    ),
    "min": _Operator(formula="Min(low, n) / close", reads=("low", "close"), work=_over_close(rolling_min, reads="low")),
    "qtlu": _Operator(
        formula="Quantile(close, n, 0.8) / close",
        reads=_CLOSE,
        work=_over_close(lambda x, n: rolling_quantile(x, n, 0.8)),
    ),
    "qtld": _Operator(
        formula="Quantile(close, n, 0.2) / close",
        reads=_CLOSE,
        work=_over_close(lambda x, n: rolling_quantile(x, n, 0.2)),
    ),
    "rank": _Operator(formula="Rank(close, n)", reads=_CLOSE, work=lambda b, n: rolling_rank(column(b, "close"), n)),
    "rsv": _Operator(
        formula="(close - Min(low, n)) / (Max(high, n) - Min(low, n))",
        reads=_HLC,
        work=lambda b, n: safe_ratio(
            column(b, "close") - rolling_min(column(b, "low"), n),
            rolling_max(column(b, "high"), n) - rolling_min(column(b, "low"), n),
            undefined=0.0,
        ),
    ),
    "imax": _Operator(
        formula="IdxMax(high, n) / n", reads=("high",), work=lambda b, n: rolling_place_of_max(column(b, "high"), n) / n
    ),
    "imin": _Operator(
        formula="IdxMin(low, n) / n", reads=("low",), work=lambda b, n: rolling_place_of_min(column(b, "low"), n) / n
    ),
    "imxd": _Operator(
        formula="(IdxMax(high, n) - IdxMin(low, n)) / n",
        reads=("high", "low"),
        work=lambda b, n: (rolling_place_of_max(column(b, "high"), n) - rolling_place_of_min(column(b, "low"), n)) / n,
    ),
    "corr": _Operator(
        formula="Corr(close, Log(volume + 1), n)",
        reads=("close", "volume"),
        work=_price_with_volume,
        scaling="none",
    ),
    "cord": _Operator(
        formula="Corr(close / Ref(close, 1), Log(volume / Ref(volume, 1) + 1), n)",
        reads=("close", "volume"),
        work=_change_with_volume_change,
        before=1,
    ),
    "cntp": _Operator(
        formula="Mean(close > Ref(close, 1), n)", reads=_CLOSE, before=1, work=lambda b, n: _share_of_bars(b, n, 1.0)
    ),
    "cntn": _Operator(
        formula="Mean(close < Ref(close, 1), n)", reads=_CLOSE, before=1, work=lambda b, n: _share_of_bars(b, n, -1.0)
    ),
    "cntd": _Operator(
        formula="CNTP - CNTN",
        reads=_CLOSE,
        before=1,
        work=lambda b, n: _share_of_bars(b, n, 1.0) - _share_of_bars(b, n, -1.0),
    ),
    "sump": _Operator(
        formula="Sum(max(close - Ref(close, 1), 0), n) / Sum(Abs(close - Ref(close, 1)), n)",
        reads=_CLOSE,
        before=1,
        work=lambda b, n: _share_of_moves(column(b, "close"), n, 1.0),
    ),
    "sumn": _Operator(
        formula="Sum(max(Ref(close, 1) - close, 0), n) / Sum(Abs(close - Ref(close, 1)), n)",
        reads=_CLOSE,
        before=1,
        work=lambda b, n: _share_of_moves(column(b, "close"), n, -1.0),
    ),
    "sumd": _Operator(
        formula="SUMP - SUMN",
        reads=_CLOSE,
        before=1,
        work=lambda b, n: _share_of_moves(column(b, "close"), n, 0.0),
    ),
    "vma": _Operator(
        formula="Mean(volume, n) / volume",
        reads=_VOLUME,
        work=lambda b, n: _over_volume(b, rolling_mean(column(b, "volume"), n), n, 1.0),
    ),
    "vstd": _Operator(
        formula="Std(volume, n) / volume, of a sample (n - 1)",
        reads=_VOLUME,
        work=lambda b, n: _over_volume(b, _sample_std(column(b, "volume"), n), n, 0.0),
    ),
    "wvma": _Operator(
        formula="Std(w, n) / Mean(w, n) with w = Abs(close / Ref(close, 1) - 1) volume",
        reads=("close", "volume"),
        before=1,
        work=_weighted_moves,
    ),
    "vsump": _Operator(formula="SUMP of the volume", reads=_VOLUME, before=1, work=_volume_moves(1.0)),
    "vsumn": _Operator(formula="SUMN of the volume", reads=_VOLUME, before=1, work=_volume_moves(-1.0)),
    "vsumd": _Operator(formula="SUMD of the volume", reads=_VOLUME, before=1, work=_volume_moves(0.0)),
}
ALPHA158_OPERATORS = tuple(_OPERATORS)
"""The 29 operators over windows, in qlib's order; its LOW is called by the name of its columns, `min`."""


def _known(kind: str, operator: str, known: dict[str, _Operator]) -> None:
    if operator not in known:
        raise ConfigError(
            f"feature {kind}: there is no operator {operator!r}.{nearest(operator, known)} There are {', '.join(known)}."
        )


@register_feature("alpha158_bar")
@dataclass(frozen=True, kw_only=True, slots=True)
class Alpha158Bar(Feature):
    """One of Alpha158's 13 formulas of a single bar. `operator` is qlib's name in small letters: kmid ... vwap0."""

    operator: str = "kmid"
    vwap_column: str | None = None
    """A bar column with the volume-weighted price for `vwap0`; without it the typical price stands in."""

    def __post_init__(self) -> None:
        Feature.__post_init__(self)
        _known(self.kind, self.operator, _BAR_OPERATORS)
        if self.vwap_column is not None and self.operator != "vwap0":
            raise ConfigError(f"feature {self.kind}: only operator vwap0 reads vwap_column, not {self.operator}.")

    @property
    def column(self) -> str:
        return f"alpha158_{self.operator}"

    @property
    def lookback_bars(self) -> int:
        return 1

    @property
    def inputs(self) -> tuple[str, ...]:
        if self.vwap_column is not None:
            return (self.vwap_column, "close")
        return _BAR_OPERATORS[self.operator].reads

    @property
    def source(self) -> str:
        return f"{self.operator.upper()} = {_BAR_OPERATORS[self.operator].formula}: {_SOURCE}"

    def values(self, bars: pl.DataFrame) -> Array:
        if self.vwap_column is not None:
            return column(bars, self.vwap_column) / column(bars, "close")
        return _BAR_OPERATORS[self.operator].work(bars, 1)


@register_feature("alpha158")
@dataclass(frozen=True, kw_only=True, slots=True)
class Alpha158(Feature):
    """One of Alpha158's 29 operators over a window. `operator` is qlib's name in small letters: roc ... vsumd.

    CORR takes the logarithm of volume + 1, so it alone changes with the unit of volume.
    """

    smallest_bars: ClassVar[int] = 2
    operator: str = "roc"
    bars: int = 5

    def __post_init__(self) -> None:
        Feature.__post_init__(self)
        _known(self.kind, self.operator, _OPERATORS)

    @property
    def scaling(self) -> Scaling:  # type: ignore[override]
        return _OPERATORS[self.operator].scaling

    @property
    def lookback_bars(self) -> int:
        return self.bars + _OPERATORS[self.operator].before

    @property
    def inputs(self) -> tuple[str, ...]:
        return _OPERATORS[self.operator].reads

    @property
    def source(self) -> str:
        return f"{self.operator.upper()}n = {_OPERATORS[self.operator].formula}: {_SOURCE}"

    def values(self, bars: pl.DataFrame) -> Array:
        return _OPERATORS[self.operator].work(bars, self.bars)
