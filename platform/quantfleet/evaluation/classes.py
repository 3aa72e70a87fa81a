"""Class forecasts: precision, recall and F1 of each class, and how far stated chances can be believed.

Shapes: N rows, B bins of stated chances.

A row whose outcome is not known (NaN) is left out; a chance of NaN where the outcome is known makes the scores NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ClassScore", "Reliability", "brier_score", "class_scores", "reliability"]

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How one class was called."""

    precision: float
    """Share of its calls that were right; NaN when it was never called."""
    recall: float
    """Share of its rows that were called; NaN when it never came."""
    f1: float
    """Harmonic mean of both, 2 right / (calls + rows); NaN when the class neither came nor was called."""
    rows: int
    """How often it came."""


def class_scores(called_N: npt.NDArray[Any], realised_N: npt.NDArray[Any]) -> Mapping[int, ClassScore]:
    """Score every class that was called or came.

    Args:
        called_N, realised_N: class numbers, such as 0 down and 1 up, or -1, 0, 1 of a triple barrier.
    Raises: ValueError: shapes differ, or a class that is no whole number.
    """
    called, realised = np.asarray(called_N), np.asarray(realised_N)
    if called.shape != realised.shape:
        raise ValueError(f"{called.shape} calls cannot be compared with {realised.shape} outcomes.")
    for values in (called, realised):
        if values.size and not (np.isfinite(values).all() and (values == np.round(values)).all()):
            raise ValueError("classes must be whole numbers: leave rows out whose call or outcome is not known.")
    scores = {}
    for name in np.unique(np.concatenate([called, realised])):
        calls, rows = called == name, realised == name
        right, made, came = int((calls & rows).sum()), int(calls.sum()), int(rows.sum())
        scores[int(name)] = ClassScore(
            precision=right / made if made else math.nan,
            recall=right / came if came else math.nan,
            f1=2.0 * right / (made + came),
            rows=came,
        )
    return scores


def brier_score(chance_N: Array, happened_N: Array) -> float:
    """Mean squared difference of a stated chance and 1 or 0; 0.25 is what always saying one half scores.

    Raises: ValueError: shapes differ, or a chance outside [0, 1].
    Source: Brier (1950), "Verification of forecasts expressed in terms of probability".
    """
    chance, happened = _stated(chance_N, happened_N)
    return float(((chance - happened) ** 2).mean()) if len(chance) else math.nan


@dataclass(frozen=True, slots=True)
class Reliability:
    """Stated chances against how often it then happened, bin by bin; NaN in bins without rows."""

    stated_B: npt.NDArray[np.float64]
    """Mean stated chance of the bin."""
    happened_B: npt.NDArray[np.float64]
    """Share of its rows in which it happened."""
    rows_B: npt.NDArray[np.int64]
    expected_error: float
    """Expected calibration error: |happened - stated|, averaged over rows."""
    largest_error: float
    """The largest of the bins."""


def reliability(chance_N: Array, happened_N: Array, *, bins: int = 10) -> Reliability:
    """Sort rows into bins of equal width by the stated chance and compare each bin with what came true.

    Args:
        chance_N: stated chance in [0, 1].
        happened_N: 1 where it happened, 0 where not, NaN where not known.
        bins: of equal width over [0, 1]; a chance on an edge belongs to the bin above, 1 to the last.
    Raises: ValueError: shapes differ, a chance outside [0, 1], or no bins.
    Source: Murphy and Winkler (1977); the error as in Naeini, Cooper and Hauskrecht (2015), AAAI.
    """
    if bins < 1:
        raise ValueError(f"bins={bins}: it takes at least one.")
    chance, happened = _stated(chance_N, happened_N)
    if np.isnan(chance).any():
        nothing = np.full(bins, np.nan)
        return Reliability(nothing, nothing, np.zeros(bins, dtype=np.int64), math.nan, math.nan)
    place = np.minimum((chance * bins).astype(np.int64), bins - 1)
    rows = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        stated, came = (np.bincount(place, weights=w, minlength=bins) / rows for w in (chance, happened))
    error, filled = np.abs(came - stated), rows > 0
    if not filled.any():
        return Reliability(stated, came, rows, math.nan, math.nan)
    weighted = float((error[filled] * rows[filled]).sum() / rows.sum())
    return Reliability(stated, came, rows, weighted, float(error[filled].max()))


def _stated(chance_N: Array, happened_N: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if np.shape(chance_N) != np.shape(happened_N):
        raise ValueError(f"{np.shape(chance_N)} chances cannot be compared with {np.shape(happened_N)} outcomes.")
    known = ~np.isnan(happened_N)
    chance, happened = np.asarray(chance_N)[known].astype(np.float64), np.asarray(happened_N)[known].astype(np.float64)
    if ((chance < 0.0) | (chance > 1.0)).any():
        raise ValueError("a chance must lie between 0 and 1; pass probabilities, not logits.")
    return chance, happened
