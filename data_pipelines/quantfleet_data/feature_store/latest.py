"""The newest feature rows of every symbol, computed here and now: what a model answers from, without a table in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from quantfleet.contracts import FeatureSet
from quantfleet_data.feature_store.plan import FeaturePlan
from quantfleet_data.features import compute_features

__all__ = ["latest_features"]


def latest_features(
    read: Callable[[str], pl.DataFrame], symbols: Sequence[str], features: FeatureSet, rows: int
) -> dict[str, pl.DataFrame]:
    """Compute a set over each symbol's whole history, so that recursive features start where they started in training.

    Cross-sections compare every returned row with all symbols that have a bar at its time, as the feature job does: a
    symbol with a hole reaches further back than its peers' newest rows, and meets them there all the same.

    Memory: one symbol's history at a time, and of each symbol the rows at times that some symbol's newest rows have.

    Args:
        read: a symbol's bars with every column the features read; called twice a symbol where there are cross-sections.
        symbols: all symbols of the table, since cross-sections compare with all of them.
        rows: how many of the newest rows of each symbol to return.
    Returns: by symbol: symbol, timestamp and the set's columns, at most `rows` rows; a symbol without bars is left out.
    """
    plan = FeaturePlan(features)
    times = (
        pl.concat([read(symbol)["timestamp"].tail(rows) for symbol in symbols]).unique()
        if plan.crosses and symbols
        else None
    )

    def needed(computed: pl.DataFrame) -> pl.DataFrame:
        return computed.tail(rows) if times is None else computed.filter(pl.col("timestamp").is_in(times.implode()))

    kept = [needed(compute_features(bars, plan.per_symbol)) for bars in map(read, symbols) if not bars.is_empty()]
    if not kept:
        return {}
    together = pl.concat(kept)
    for cross in plan.crosses:
        compared = cross.across(together.select("timestamp", "symbol", value=cross.of.column))
        together = together.with_columns(compared["value"].alias(cross.column))
    found = together.select("symbol", "timestamp", *features.columns).partition_by("symbol", as_dict=True)
    return {str(key[0]): part.tail(rows) for key, part in found.items()}
