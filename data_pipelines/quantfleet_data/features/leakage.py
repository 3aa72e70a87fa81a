"""The canary of causality: features up to t must not change, to the bit, when everything after t is cut off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import FeatureSet
from quantfleet.errors import LeakageError
from quantfleet_data.features.compute import compute_features
from quantfleet_data.features.cross_section import CrossSectionConfig
from quantfleet_data.features.windows import Array

__all__ = ["assert_causal", "assert_causal_across", "spread_cuts"]


def spread_cuts(rows: int, count: int) -> tuple[int, ...]:
    """Return up to `count` places to cut `rows` bars, evenly spread, the first and the last possible one among them.

    Raises: ValueError: fewer than two rows, or no cuts asked for.
    """
    if rows < 2 or count < 1:
        raise ValueError(f"cannot spread {count} cuts over {rows} rows; at least 2 rows and 1 cut are needed.")
    return tuple(sorted({round(float(cut)) for cut in np.linspace(rows - 1, 1, count)}))


def assert_causal(features: FeatureSet, bars: pl.DataFrame, cuts: Sequence[int]) -> None:
    """Compute the features on the first `cut` bars, for every cut, and compare them with the whole history, bit by bit.

    Args:
        features: the set to judge.
        bars: one symbol, as for `compute_features`.
        cuts: how many leading bars to keep, each in 1..T.
    Raises:
        LeakageError: a value changed; names the feature (first in the set's order) and the first time at which it did.
        ValueError: a cut outside 1..T.
    """
    whole = compute_features(bars, features)
    for cut in cuts:
        if not 1 <= cut <= bars.height:
            raise ValueError(f"cut={cut} keeps no bars or more than the {bars.height} there are.")
        part = compute_features(bars.head(cut), features)
        for name in features.columns:
            changed = np.flatnonzero(_bits_differ(whole[name].to_numpy()[:cut], part[name].to_numpy()))
            if changed.size:
                row = int(changed[0])
                time = whole["timestamp"][row]
                raise LeakageError(
                    f"feature {name!r} sees the future: at {time} of {whole['symbol'][0]} it is {whole[name][row]!r}, "
                    f"but {part[name][row]!r} when nothing after {whole['timestamp'][cut - 1]} is known "
                    f"({changed.size} of {cut} rows change). Make it read bars 0..t only.",
                    feature=name,
                    time=time.isoformat(),
                    rows=int(changed.size),
                )


def assert_causal_across(cross: CrossSectionConfig, values: pl.DataFrame, cuts: int) -> None:
    """Compare symbols with every later time cut off, for `cuts` times, and with all times, bit by bit.

    Args:
        values: `timestamp`, `symbol` and `value`, as for `across`.
    Raises: LeakageError: a value changed; names the feature, and the first time at which it did.
    """
    times = values["timestamp"].unique().sort()
    if len(times) < 2:
        return
    whole = cross.across(values)
    for cut in spread_cuts(len(times), cuts):
        last = times[cut - 1]
        kept = values["timestamp"] <= last
        known, part = whole.filter(kept), cross.across(values.filter(kept))
        differ = _bits_differ(known["value"].to_numpy(), part["value"].to_numpy())
        changed = known.select("timestamp", "symbol", "value", without=part["value"]).filter(differ).sort("timestamp")
        if not changed.is_empty():
            time, symbol, seen, without = changed.row(0)
            raise LeakageError(
                f"feature {cross.column!r} sees the future: at {time} of {symbol} it is {seen!r}, but {without!r} when nothing "
                f"after {last} is known ({changed.height} of {part.height} rows change). Compare the values of one time only.",
                feature=cross.column,
                time=time.isoformat(),
                rows=changed.height,
            )


def _bits_differ(left: Array, right: Array) -> npt.NDArray[np.bool_]:
    """True where two float64 arrays differ in any bit; every NaN equals every NaN."""
    same_bits = np.ascontiguousarray(left).view(np.int64) == np.ascontiguousarray(right).view(np.int64)
    differ: npt.NDArray[np.bool_] = ~(same_bits | (np.isnan(left) & np.isnan(right)))
    return differ
