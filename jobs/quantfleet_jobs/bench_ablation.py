"""Every model of a bench against one of them, over all seeds: what a switch changes, and whether that is more than noise. Pure.

Shapes: S seeds, N rows of predictions, T bars, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantfleet.errors import DataError
from quantfleet.evaluation import (
    ic_block_bars,
    information_coefficient,
    optimal_block_bars,
    resample_ics,
    resample_sharpes,
    sharpe,
)
from quantfleet.evaluation.inference import SeededDifference, difference_over_seeds
from quantfleet_jobs.bench_rows import AnswersOnTest, BenchRow

__all__ = ["AblationRow", "SeedRun", "ablation_rows"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """What one seed gave."""

    seed: int
    rows: Mapping[str, BenchRow]
    answers: Mapping[str, AnswersOnTest]
    """Of the models that were fitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationRow:
    """One model less the reference; positive is better."""

    name: str
    seeds: int
    """For which both were fitted."""
    failed: str = ""
    """Why it was not, for any seed."""
    ic: SeededDifference | None = None
    sharpe: SeededDifference | None = None

    @property
    def noise(self) -> bool:
        """Whether neither difference stands out."""
        return all(found is None or found.noise for found in (self.ic, self.sharpe))


def ablation_rows(
    runs: Sequence[SeedRun],
    names: Sequence[str],
    reference: str,
    *,
    horizon_bars: int,
    bars_per_year: float,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> list[AblationRow]:
    """Compare each of `names` with the reference; the reference itself is left out.

    The intervals of one measure hold together: with m models each has the confidence 1 - (1 - confidence) / m (Bonferroni), so that
    of many switches that do nothing none stands out by luck, at the given confidence.

    Raises: DataError: the reference was fitted for no seed, or models answer for different rows.
    """
    if not any(reference in run.answers for run in runs):
        raise DataError(f"the reference {reference!r} was fitted for no seed; there is nothing to compare with.")
    names = [name for name in names if name != reference]
    each = 1.0 - (1.0 - confidence) / max(1, len(names))
    found = []
    for name in names:
        both = [run for run in runs if name in run.answers and reference in run.answers]
        if not both:
            why = next((run.rows[name].failed for run in runs if run.rows[name].failed), "the reference failed")
            found.append(AblationRow(name=name, seeds=0, failed=why))
            continue
        sides = [[run.answers[side] for run in both] for side in (name, reference)]
        found.append(
            AblationRow(
                name=name,
                seeds=len(both),
                ic=_ic(*sides, horizon_bars=horizon_bars, confidence=each, resamples=resamples),
                sharpe=_sharpe(*sides, bars_per_year=bars_per_year, confidence=each, resamples=resamples),
            )
        )
    return found


def _ic(
    models: Sequence[AnswersOnTest],
    references: Sequence[AnswersOnTest],
    *,
    horizon_bars: int,
    confidence: float,
    resamples: int,
) -> SeededDifference:
    every = [*models, *references]
    first, S = every[0], len(models)
    for one in every[1:]:
        if not (
            np.array_equal(one.time_N, first.time_N)
            and np.array_equal(one.realised_N, first.realised_N, equal_nan=True)
        ):
            raise DataError(
                "models of the bench answer for different rows of the test period; they cannot be compared."
            )
    known = np.isfinite(first.realised_N)
    y, time = first.realised_N[known], first.time_N[known]
    x_KN = np.stack([one.expected_N[known] for one in every])
    estimate = np.array([information_coefficient(x, y) for x in x_KN])
    if not np.isfinite(estimate).all():
        drawn = np.full((resamples, 2 * S), math.nan)
    else:
        block = max(1.0 + 1e-9, float(np.mean([ic_block_bars(x, y, time, horizon_bars=horizon_bars) for x in x_KN])))
        drawn = resample_ics(x_KN, y, time, block_bars=block, resamples=resamples, seed=0)
    return _difference(estimate, drawn, S, confidence)


def _sharpe(
    models: Sequence[AnswersOnTest],
    references: Sequence[AnswersOnTest],
    *,
    bars_per_year: float,
    confidence: float,
    resamples: int,
) -> SeededDifference:
    returns_KT = np.stack([one.return_T for one in (*models, *references)])
    estimate = np.array([sharpe(returns, bars_per_year=bars_per_year) for returns in returns_KT])
    if not np.isfinite(estimate).all():
        drawn = np.full((resamples, len(returns_KT)), math.nan)
    else:
        block = float(np.mean([optimal_block_bars(returns) for returns in returns_KT]))
        drawn = resample_sharpes(returns_KT, block_bars=block, resamples=resamples, seed=0) * math.sqrt(bars_per_year)
    return _difference(estimate, drawn, len(models), confidence)


def _difference(estimate_K: Doubles, drawn_RK: Doubles, S: int, confidence: float) -> SeededDifference:
    return difference_over_seeds(
        estimate_K[:S] - estimate_K[S:], drawn_RK[:, :S] - drawn_RK[:, S:], confidence=confidence, seed=0
    )
