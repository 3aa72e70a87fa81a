"""Every model of a bench against one of them, over all seeds: what a switch changes, and whether that is more than noise. Pure.

Shapes: S seeds, N rows of predictions, T bars, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
from quantfleet.evaluation.inference import SeededDifference, difference_over_seeds, pooled_deviation
from quantfleet_jobs.bench.rows import AnswersOnTest, BenchRow

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

    How far seeds differ is taken from all models together (`pooled_deviation`).

    Raises: DataError: the reference was fitted for no seed, or models answer for different rows.
    """
    if not any(reference in run.answers for run in runs):
        raise DataError(f"the reference {reference!r} was fitted for no seed; there is nothing to compare with.")
    names = [name for name in names if name != reference]
    each = 1.0 - (1.0 - confidence) / max(1, len(names))
    pairs = {name: [run for run in runs if name in run.answers and reference in run.answers] for name in names}
    measures: dict[str, dict[str, SeededDifference]] = {}
    for measure, draw in (("ic", _ics(horizon_bars, resamples)), ("sharpe", _sharpes(bars_per_year, resamples))):
        drawn = {
            name: draw([run.answers[side] for side in (name, reference) for run in both])
            for name, both in pairs.items()
            if both
        }
        luck = pooled_deviation([estimate_S for estimate_S, _ in drawn.values()])
        measures[measure] = {
            name: difference_over_seeds(estimate_S, drawn_RS, confidence=each, seed=0, over_seeds=luck)
            for name, (estimate_S, drawn_RS) in drawn.items()
        }
    return [
        AblationRow(name=name, seeds=len(both), ic=measures["ic"][name], sharpe=measures["sharpe"][name])
        if both
        else AblationRow(name=name, seeds=0, failed=_reason(runs, name))
        for name, both in pairs.items()
    ]


def _reason(runs: Sequence[SeedRun], name: str) -> str:
    return next((run.rows[name].failed for run in runs if run.rows[name].failed), "the reference failed")


Draw = Callable[[Sequence[AnswersOnTest]], tuple[Doubles, Doubles]]
"""Takes a model's answers for S seeds, then those of the reference; gives S differences, and the same on R resamples."""


def _ics(horizon_bars: int, resamples: int) -> Draw:
    def draw(every: Sequence[AnswersOnTest]) -> tuple[Doubles, Doubles]:
        first = every[0]
        for one in every[1:]:
            same = np.array_equal(one.realised_N, first.realised_N, equal_nan=True)
            if not (same and np.array_equal(one.time_N, first.time_N)):
                raise DataError(
                    "models of the bench answer for different rows of the test period; they cannot be compared."
                )
        known = np.isfinite(first.realised_N)
        y_N, time_N = first.realised_N[known], first.time_N[known]
        x_KN = np.stack([one.expected_N[known] for one in every])
        estimate_K = np.array([information_coefficient(x_N, y_N) for x_N in x_KN])
        if not np.isfinite(estimate_K).all():
            return _less(estimate_K), _less(np.full((1, len(every)), math.nan))
        blocks = [ic_block_bars(x_N, y_N, time_N, horizon_bars=horizon_bars) for x_N in x_KN]
        block = max(1.0 + 1e-9, float(np.mean(blocks)))
        return _less(estimate_K), _less(resample_ics(x_KN, y_N, time_N, block_bars=block, resamples=resamples, seed=0))

    return draw


def _sharpes(bars_per_year: float, resamples: int) -> Draw:
    def draw(every: Sequence[AnswersOnTest]) -> tuple[Doubles, Doubles]:
        returns_KT = np.stack([one.return_T for one in every])
        estimate_K = np.array([sharpe(returns_T, bars_per_year=bars_per_year) for returns_T in returns_KT])
        if not np.isfinite(estimate_K).all():
            return _less(estimate_K), _less(np.full((1, len(every)), math.nan))
        block = float(np.mean([optimal_block_bars(returns_T) for returns_T in returns_KT]))
        drawn_RK = resample_sharpes(returns_KT, block_bars=block, resamples=resamples, seed=0)
        return _less(estimate_K), _less(drawn_RK * math.sqrt(bars_per_year))

    return draw


def _less(value_K: Doubles) -> Doubles:
    """The first half of the last axis less the second."""
    half = value_K.shape[-1] // 2
    difference: Doubles = value_K[..., :half] - value_K[..., half:]
    return difference
