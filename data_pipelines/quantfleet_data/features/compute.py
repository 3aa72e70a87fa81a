"""Features of one symbol: bars in, a table of numbers out, every promise of the contract checked on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import FeatureConfig, FeatureSet, FeatureState, validate_bars
from quantfleet.errors import DataError, LeakageError, SchemaError, nearest
from quantfleet_data.features.base import KernelFeature
from quantfleet_data.features.kernels import (
    Panel,
    PanelRunner,
    Runner,
    bar_columns,
    empty_rows,
    lane_code_of,
    program_of,
)
from quantfleet_data.features.kernels.codes import LANES
from quantfleet_data.features.windows import Array

__all__ = ["KERNELS", "advance_features", "compute_features", "compute_panel", "one_symbol"]

KERNELS = "<kernels>"
"""Name of the state that the compiled formulas of a set share; no column is called so."""


def one_symbol(bars: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Check that bars keep their contract and are of one symbol; return them with its types, other columns untouched.

    Raises: SchemaError: several symbols. EmptyTableError, SchemaError, TimeError, PriceError: as in `validate_bars`.
    """
    checked = validate_bars(bars, where=where)
    symbols = checked["symbol"].unique().sort()
    if len(symbols) != 1:
        raise SchemaError(
            f"{where} hold {len(symbols)} symbols ({', '.join(symbols.head(3))}, ...); pass one symbol at a time.",
            symbols=len(symbols),
        )
    return bars.with_columns(checked.get_columns())


def compute_features(bars: pl.DataFrame, features: FeatureSet) -> pl.DataFrame:
    """Compute every feature of a set for one symbol.

    Args:
        bars: at least BAR_COLUMNS of one symbol, sorted by time.
        features: what to compute, in which order.
    Returns: one row per bar: symbol, timestamp (UTC, the bar's open; the row is known at timestamp + timeframe), then
        one float64 column a feature, NaN before its look-back.
    Raises:
        SchemaError: a feature reads a column that is not there, or does not return float64 of one dimension.
        LeakageError: a feature does not return one value per bar.
        DataError: a feature returns an infinite value.
        EmptyTableError, TimeError, PriceError: the bars break their contract.
    """
    bars = _checked_bars(bars, features)
    kernel, others = _kernel_features(features)
    computed: dict[str, Array] = {}
    if kernel:
        out_FT = empty_rows(len(kernel), bars.height)
        _feed(Runner(program_of(kernel)), bars, out_FT, 0)
        computed = {feature.column: out_FT[f] for f, feature in enumerate(kernel)}
    computed |= {feature.column: feature.compute(bars) for feature in others}
    return _table(bars, features, computed)


def compute_panel(symbols: Sequence[pl.DataFrame], features: FeatureSet, into: Panel | None = None) -> Panel:
    """Compute a set for many symbols into one float32 panel: `compute_features` of each, rounded to the last bit.

    The compiled formulas of the set run LANES symbols at a time; those of about the same length go together.

    Args:
        symbols: bars as for `compute_features`, one frame a symbol.
        features: what to compute, in which order.
        into: a panel of as many features and bars to write into; None: a new one.
    Returns: the panel; feature f stands in row f, symbol s where `Panel.of(s)` looks.
    Raises: as `compute_features`; ValueError: `into` is of other bars or features.
    """
    bars = tuple(frame.height for frame in symbols)
    panel = Panel.empty(len(features.features), bars) if into is None else into
    if panel.bars != bars or panel.values_FT.shape[0] != len(features.features):
        raise ValueError(
            f"into holds {panel.values_FT.shape[0]} features of {len(panel.bars)} symbols; a panel of "
            f"{len(features.features)} features and exactly these symbols' bars is needed."
        )
    kernel, others = _kernel_features(features)
    place = {column: f for f, column in enumerate(features.columns)}
    runner = PanelRunner(lane_code_of(kernel, rows=tuple(place[f.column] for f in kernel))) if kernel else None
    longest_first = sorted(range(len(bars)), key=lambda symbol: -bars[symbol])
    for start in range(0, len(bars), LANES):
        group = longest_first[start : start + LANES]
        frames = [_checked_bars(symbols[symbol], features) for symbol in group]
        if runner is not None:
            runner.run([bar_columns(frame, runner.code.inputs) for frame in frames], panel, group)
        for symbol, frame in zip(group, frames, strict=True):
            for feature in others:
                panel.put(symbol, place[feature.column], _checked(feature, frame, feature.compute(frame)))
            for feature in kernel:
                _refuse_infinite(feature, frame, panel.of(symbol)[:, place[feature.column]])
    return panel


def advance_features(
    bars: pl.DataFrame, features: FeatureSet, new_bars: int, states: Mapping[str, FeatureState] | None
) -> tuple[pl.DataFrame, dict[str, FeatureState]]:
    """Compute the newest bars of a set only; joined over any partition of a history, equal to `compute_features`, bit by bit.

    Args:
        bars: the newest bars of one symbol; the last `new_bars` are new, before them at least
            `features.lookback_bars - 1` known ones, or all there are.
        new_bars: how many are new.
        states: what this returned at the bar before the new ones; None: nothing is known yet.
    Returns: `new_bars` rows as of `compute_features`, and the states: one of all compiled formulas together, named
        KERNELS, and one of every other feature, named by its column.
    Raises: as `compute_features`; DataError: the states are not those of this set.
    """
    bars = _checked_bars(bars, features)
    kernel, others = _kernel_features(features)
    names = {*([KERNELS] if kernel else []), *(feature.column for feature in others)}
    if states is not None and set(states) != names:
        odd = sorted(set(states) ^ names)
        raise DataError(
            f"the states are not those of feature set {features.name!r}: {', '.join(odd[:3])} has none, or is not of "
            "it. Compute the whole history anew with `states=None`.",
            features=odd,
        )
    computed: dict[str, Array] = {}
    after: dict[str, FeatureState] = {}
    if kernel:
        computed, after[KERNELS] = _advance_kernels(kernel, bars, new_bars, None if states is None else states[KERNELS])
    for feature in others:
        state = None if states is None else states[feature.column]
        asked = bars.tail(new_bars + feature.lookback_bars - 1)
        computed[feature.column], after[feature.column] = feature.advance(asked, new_bars, state)
    return _table(bars.tail(new_bars), features, computed), after


def _advance_kernels(
    kernel: Sequence[KernelFeature], bars: pl.DataFrame, new_bars: int, state: FeatureState | None
) -> tuple[dict[str, Array], FeatureState]:
    """One run over the new bars for all of them: values by column, and the state of the run."""
    kernel[0].check_advance(bars, new_bars, state)
    runner = Runner(program_of(tuple(kernel)))
    if state is not None:
        runner.restore(state)
    out_FT = empty_rows(len(kernel), new_bars)
    _feed(runner, bars.tail(new_bars), out_FT, 0)
    return {feature.column: out_FT[f] for f, feature in enumerate(kernel)}, runner.state()


def _checked_bars(bars: pl.DataFrame, features: FeatureSet) -> pl.DataFrame:
    for feature in features.features:
        for name in feature.inputs:
            if name not in bars.columns:
                raise SchemaError(
                    f"feature {feature.column!r} reads the bar column {name!r}, which is not there."
                    f"{nearest(name, bars.columns)} The bars have: {', '.join(bars.columns)}.",
                    feature=feature.column,
                    column=name,
                )
    return one_symbol(bars, where="the bars to compute features from")


def _kernel_features(features: FeatureSet) -> tuple[tuple[KernelFeature, ...], tuple[FeatureConfig, ...]]:
    """Features that are formulas of the kernels, which run together, and the others."""
    kernel = tuple(f for f in features.features if isinstance(f, KernelFeature))
    return kernel, tuple(f for f in features.features if not isinstance(f, KernelFeature))


def _feed(runner: Runner, bars: pl.DataFrame, out_FT: npt.NDArray[Any], start: int) -> None:
    runner.feed(bar_columns(bars, runner.program.inputs), out_FT, start)


def _table(bars: pl.DataFrame, features: FeatureSet, computed: Mapping[str, Array]) -> pl.DataFrame:
    named = zip(features.columns, features.features, strict=True)
    columns = {name: pl.Series(_checked(feature, bars, computed[name])) for name, feature in named}
    return bars.select("symbol", "timestamp").with_columns(**columns)


def _checked(feature: FeatureConfig, bars: pl.DataFrame, values: object) -> Array:
    if not isinstance(values, np.ndarray) or values.dtype != np.float64 or values.ndim != 1:
        kind = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise SchemaError(
            f"feature {feature.column!r} returned {kind}, not float64 of shape (T,).", feature=feature.column
        )
    if values.size != bars.height:
        raise LeakageError(
            f"feature {feature.column!r} returned {values.size} values for {bars.height} bars, so values would stand "
            "at the wrong time. Return one value per bar, NaN where undefined.",
            feature=feature.column,
            values=values.size,
            bars=bars.height,
        )
    _refuse_infinite(feature, bars, values)
    return values


def _refuse_infinite(feature: FeatureConfig, bars: pl.DataFrame, values: npt.NDArray[Any]) -> None:
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        time = bars["timestamp"][int(infinite[0])]
        raise DataError(
            f"feature {feature.column!r} is infinite in {infinite.size} rows of {bars['symbol'][0]}, first {time}. "
            "Define its value where its denominator is zero, or return NaN there.",
            feature=feature.column,
            rows=int(infinite.size),
        )
