"""A difference between two models that were fitted several times: is it more than the luck of the period and of the seeds?

Shapes: S seeds, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SeededDifference", "difference_over_seeds", "pooled_deviation"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeededDifference:
    """The mean difference over seeds with its interval; NaN where it is undefined for one of them."""

    estimate: float
    low: float
    high: float
    confidence: float
    seed_deviation: float
    """Of the differences over seeds; NaN where there is one seed, whose luck is then not in the interval."""

    @property
    def noise(self) -> bool:
        """Whether no difference at all lies within the interval, or nothing can be said."""
        return not (self.low > 0.0 or self.high < 0.0)


def pooled_deviation(estimates: Sequence[Doubles]) -> tuple[float, int]:
    """The deviation over seeds that several comparisons have in common, and its degrees of freedom.

    Two or three seeds tell little of how far seeds differ; ten models of three seeds tell it with 20 degrees of freedom, if seeds
    matter about as much to each.

    Args:
        estimates: the differences of each comparison, one for each of its seeds; those that are undefined are left out.
    Returns: NaN and 0 where no comparison has two seeds.
    """
    known = [each[np.isfinite(each)] for each in estimates]
    freedom = sum(max(0, len(each) - 1) for each in known)
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in known if len(each) > 1)
    return (math.sqrt(squares / freedom), freedom) if freedom else (math.nan, 0)


def difference_over_seeds(
    estimate_S: Doubles, drawn_RS: Doubles, *, confidence: float, seed: int, over_seeds: tuple[float, int] | None = None
) -> SeededDifference:
    """Put the luck of the period and the luck of the seeds into one interval.

    To each resample of the period (the mean of its S differences) is added a draw of the seeds' own: Student's t, times the
    deviation over seeds, over the root of S. Both are taken as independent of each other.

    Args:
        estimate_S: the difference for each seed, over the whole period.
        drawn_RS: the same on resamples of the period, one resample for all seeds.
        over_seeds: the deviation over seeds and its degrees of freedom, as `pooled_deviation` gives them; None: from these S alone,
            which makes the interval of two or three seeds very wide. Without any degree of freedom the seeds' luck is left out.
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
    deviation, freedom = pooled_deviation([estimate_S]) if over_seeds is None else over_seeds
    known_R = drawn_RS[np.isfinite(drawn_RS).all(axis=1)].mean(axis=1)
    low = high = math.nan
    if math.isnan(estimate) or not len(known_R):
        estimate = math.nan
    else:
        if freedom:
            draws = np.random.default_rng(seed).standard_t(freedom, len(known_R))
            known_R = known_R + draws * deviation / math.sqrt(seeds)
        tail = (1.0 - confidence) / 2.0
        low, high = (float(bound) for bound in np.quantile(known_R, [tail, 1.0 - tail]))
    return SeededDifference(estimate=estimate, low=low, high=high, confidence=confidence, seed_deviation=deviation)
