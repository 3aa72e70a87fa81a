"""What a run can say about its models beyond each one's own interval: against the best naive model, and all of them at once.

Shapes: T bars.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kurtosis, skew

from quantfleet.evaluation.bootstrap import sharpe_difference
from quantfleet.evaluation.inference.multiple import Superiority, adjusted_p_values, confidence_set, superiority
from quantfleet.evaluation.inference.paired import bayes_factor, diebold_mariano
from quantfleet.evaluation.inference.power import detection_power, years_to_detect
from quantfleet.evaluation.metrics import sharpe
from quantfleet.evaluation.overfitting import minimum_track_record_bars, probabilistic_sharpe

__all__ = ["ModelVerdict", "RunVerdict", "judge"]

Doubles = npt.NDArray[np.float64]
_FEWEST_BARS = 30
_SMALL_EFFECT = 0.05
"""Scale of the prior on mean over deviation of a bar: an annual ratio of 0.8 for daily bars, not the psychologists' 0.707."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVerdict:
    """One candidate. Against the yardstick: the naive model with the highest Sharpe ratio. NaN where undefined."""

    difference: float
    """Of annualised Sharpe ratios."""
    p_value: float
    """One-sided, stationary bootstrap."""
    adjusted_p: float
    """For the false discovery rate among the run's candidates (Benjamini and Yekutieli: valid under any dependence)."""
    diebold_mariano_p: float
    """One-sided, on returns: a test of the means that takes no resampling."""
    bayes_factor: float
    """Evidence for a different mean return; below 1 it speaks for none."""
    in_confidence_set: bool
    """Whether it cannot be told from the best of all models, at 90 %."""
    probabilistic_sharpe: float
    """Chance that its own true ratio is above 0."""
    track_record_years: float
    """Length that would tell its ratio from 0 with 95 %, were it the true one: even odds."""
    years_to_detect: float
    """The same with 80 % power."""
    years_to_beat: float
    """Until its advantage over the yardstick would be found with 80 % power, were it the true one."""
    power: float
    """Chance that a period this long finds a true ratio of 0.5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunVerdict:
    """All candidates together."""

    yardstick: str
    years: float
    superiority: Superiority
    confidence_set: Mapping[str, float]
    models: Mapping[str, ModelVerdict]


def judge(
    candidates: Mapping[str, Doubles],
    naive: Mapping[str, Doubles],
    *,
    bars_per_year: float,
    seed: int,
    resamples: int = 10_000,
) -> RunVerdict | None:
    """Judge all candidates of a run against its best naive model, on the same bars.

    Args:
        candidates, naive: name to simple returns per bar after costs; a model with a return that is not finite is left out.
    Returns: None where there is no candidate or naive model left, or fewer than 30 bars: nothing can be told.
    """
    candidates, naive = (
        {name: r for name, r in group.items() if np.isfinite(r).all()} for group in (candidates, naive)
    )
    if not candidates or not naive:
        return None
    bars = len(next(iter(naive.values())))
    if bars < _FEWEST_BARS:
        return None
    ratios = {name: sharpe(returns, bars_per_year=bars_per_year) for name, returns in naive.items()}
    yardstick = max(sorted(ratios), key=lambda name: 0.0 if math.isnan(ratios[name]) else ratios[name])
    best = naive[yardstick]
    together = confidence_set({**naive, **candidates}, seed=seed)
    tests = {
        name: sharpe_difference(returns, best, bars_per_year=bars_per_year, seed=seed, resamples=resamples)
        for name, returns in candidates.items()
    }
    adjusted = adjusted_p_values([test.p_value for test in tests.values()], dependent=True)
    return RunVerdict(
        yardstick=yardstick,
        years=bars / bars_per_year,
        superiority=superiority(candidates, best, seed=seed),
        confidence_set=together,
        models={
            name: _model(
                returns,
                best,
                bars_per_year=bars_per_year,
                difference=tests[name].estimate,
                p_value=tests[name].p_value,
                adjusted_p=float(p),
                in_confidence_set=together[name] > 0.1,
            )
            for (name, returns), p in zip(candidates.items(), adjusted, strict=True)
        },
    )


def _model(returns_T: Doubles, best_T: Doubles, *, bars_per_year: float, **known: Any) -> ModelVerdict:
    own, ahead, years = (
        sharpe(returns_T, bars_per_year=bars_per_year),
        returns_T - best_T,
        len(returns_T) / bars_per_year,
    )
    moving, differs = np.ptp(returns_T) > 0.0, np.ptp(ahead) > 0.0
    shape = {"skewness": float(skew(returns_T)), "kurtosis": float(kurtosis(returns_T, fisher=False))} if moving else {}
    return ModelVerdict(
        diebold_mariano_p=diebold_mariano(-returns_T, -best_T, horizon_bars=1).p_first_better,
        bayes_factor=bayes_factor(ahead, scale=_SMALL_EFFECT),
        probabilistic_sharpe=probabilistic_sharpe(returns_T),
        track_record_years=minimum_track_record_bars(returns_T) / bars_per_year,
        years_to_detect=years_to_detect(own, bars_per_year=bars_per_year, **shape),
        years_to_beat=years_to_detect(sharpe(ahead, bars_per_year=bars_per_year), bars_per_year=bars_per_year)
        if differs
        else math.inf,
        power=detection_power(0.5, years=years, bars_per_year=bars_per_year),
        **known,
    )
