"""Canaries: inputs with a known answer, to see whether an evaluation would notice it.

A planted oracle feature must make a model win by a wide margin: if not, the path from feature to score is broken.
Shuffled labels must make it lose: if not, something leaks. Pure functions of their inputs and a seed.

Shapes: N rows, K label columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.errors import SchemaError, nearest

__all__ = ["plant_oracle", "shuffle_labels", "shuffle_rows"]

Number = TypeVar("Number", bound=np.floating[Any])

_KEYS = ["symbol", "timestamp"]


def plant_oracle(
    features: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    label: str,
    column: str = "oracle",
    noise: float = 0.0,
    seed: int = 0,
) -> pl.DataFrame:
    """Add a feature that is the label itself: knowledge of the future that any model should find.

    Args:
        features: columns symbol, timestamp and features.
        labels: columns symbol, timestamp and `label`; one row per pair.
        noise: standard deviation of Gaussian noise on top, in standard deviations of the label.
    Returns: the features in their order with `column` last (float64); NaN where the label is not known.
    Raises: SchemaError: a column is missing, or the features have a `column` already.
    """
    _need(features, _KEYS, "features")
    _need(labels, [*_KEYS, label], "labels")
    if column in features.columns:
        raise SchemaError(f"features have a column {column!r} already; give the oracle another name.", column=column)
    truth = labels.select(*_KEYS, pl.col(label).cast(pl.Float64).fill_nan(None).alias(column))
    planted = features.join(truth, on=_KEYS, how="left", maintain_order="left", validate="m:1")
    values = planted[column].fill_null(np.nan).to_numpy()
    spread = float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
    draws = np.random.default_rng(seed).standard_normal(len(values))
    return planted.with_columns(pl.Series(column, values + noise * spread * draws))


def shuffle_labels(labels: pl.DataFrame, *, columns: Sequence[str], seed: int = 0) -> pl.DataFrame:
    """Deal each symbol's label values out anew over its times, so that no feature says anything about them.

    The columns of a row stay together and each symbol keeps its own values, so that every marginal distribution is as
    it was. Rows with an unknown value stay where they are, and so do keys and label ends: splits and masks do not
    change.

    Args:
        labels: column symbol and the label columns.
        columns: value columns to shuffle.
    Returns: the same frame with shuffled values.
    Raises: SchemaError: a column is missing.
    """
    _need(labels, ["symbol", *columns], "labels")
    values_NK = labels.select(pl.col(c).cast(pl.Float64).fill_null(np.nan) for c in columns).to_numpy().copy()
    names = labels["symbol"].to_numpy()
    for i, name in enumerate(labels["symbol"].unique().sort()):
        rows = np.flatnonzero(names == name)
        values_NK[rows] = shuffle_rows(values_NK[rows], seed=[seed, i])
    shuffled = [
        pl.Series(c, values_NK[:, k]).fill_nan(None if labels[c].null_count() else np.nan).cast(labels.schema[c])
        for k, c in enumerate(columns)
    ]
    return labels.with_columns(shuffled)


def shuffle_rows(values_NK: npt.NDArray[Number], *, seed: int | Sequence[int] = 0) -> npt.NDArray[Number]:
    """Permute the rows in which every value is known; rows with a NaN stay in place.

    Args:
        values_NK: shape (N, K).
    Returns: a new array.
    """
    known = np.flatnonzero(~np.isnan(values_NK).any(axis=1))
    dealt = values_NK.copy()
    dealt[known] = values_NK[np.random.default_rng(seed).permutation(known)]
    return dealt


def _need(frame: pl.DataFrame, columns: Sequence[str], noun: str) -> None:
    for name in columns:
        if name not in frame.columns:
            raise SchemaError(f"{noun} have no column {name!r}.{nearest(name, frame.columns)}", column=name)
