"""A difference between two models that were fitted several times: is it more than the luck of the period and of the seeds?

Shapes: S seeds, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SeededDifference", "difference_over_seeds"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeededDifference:
    """The mean difference over seeds with its interval; NaN where it is undefined for one of them."""

    estimate: float
    low: float
    high: float
    confidence: float
    seed_deviation: float
    """Of the seeds' differences, S - 1 in the denominator; NaN for one seed, whose luck is then not in the interval."""

    @property
    def noise(self) -> bool:
        """Whether no difference at all lies within the interval, or nothing can be said."""
        return not (self.low > 0.0 or self.high < 0.0)


def difference_over_seeds(estimate_S: Doubles, drawn_RS: Doubles, *, confidence: float, seed: int) -> SeededDifference:
    """Put the luck of the period and the luck of the seeds into one interval.

    To each resample of the period (the mean of its S differences) is added a draw of the seeds' own: Student's t with S - 1
    degrees of freedom, times the deviation of the S estimates over the root of S. So two or three seeds make it wide, as they
    should. Both are taken as independent of each other.

    Args:
        estimate_S: the difference for each seed, over the whole period.
        drawn_RS: the same on resamples of the period, one resample for all seeds.
    Raises: ValueError: shapes that do not pair, or a confidence outside (0, 1).
    Source: Student (1908), "The Probable Error of a Mean"; for seeds as part of the error of a comparison, Bouthillier et al.
        2021, arXiv:2103.03098.
    """
    seeds = len(estimate_S)
    if not seeds or drawn_RS.ndim != 2 or drawn_RS.shape[1] != seeds or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"{seeds} differences and {drawn_RS.shape} resampled ones do not pair, or confidence={confidence} is not in (0, 1)."
        )
    estimate = float(np.mean(estimate_S))
    deviation = float(np.std(estimate_S, ddof=1)) if seeds > 1 else math.nan
    known_R = drawn_RS[np.isfinite(drawn_RS).all(axis=1)].mean(axis=1)
    if math.isnan(estimate) or not len(known_R):
        return SeededDifference(
            estimate=math.nan, low=math.nan, high=math.nan, confidence=confidence, seed_deviation=deviation
        )
    if seeds > 1:
        draws = np.random.default_rng(seed).standard_t(seeds - 1, len(known_R))
        known_R = known_R + draws * deviation / math.sqrt(seeds)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(known_R, [tail, 1.0 - tail])
    return SeededDifference(
        estimate=estimate, low=float(low), high=float(high), confidence=confidence, seed_deviation=deviation
    )
