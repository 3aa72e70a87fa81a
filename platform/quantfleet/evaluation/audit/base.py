"""What an audit looks at, and what it finds.

An audit does not trust the code that made a run: it looks at what the run holds, and works the telling numbers out again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from quantfleet.contracts import SplitPlan

__all__ = ["AuditConfig", "AuditInputs", "Check", "Finding", "Learner", "Outcome", "least_squares"]

Doubles = npt.NDArray[np.float64]
Outcome = Literal["passed", "failed", "not_checked"]
Learner = Callable[[Doubles, Doubles, Doubles], Doubles]
"""Features to learn from (N, F), their outcomes (N,), features to answer for (M, F); returns forecasts (M,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    """How much is looked at, and what counts as too good or too often."""

    symbols: Annotated[int, Field(ge=1)] = 3
    """Symbols whose features are computed again on bars cut short; 0.1 to 1 s each."""
    cuts: Annotated[int, Field(ge=1)] = 4
    """Places where the future is cut off."""
    most_ic: Annotated[float, Field(gt=0, le=1)] = 0.3
    """A single feature or model that correlates more than this with what comes is not believed."""
    most_looks: Annotated[int, Field(ge=1)] = 10
    """Evaluations of one test period beyond which it is no test any more."""
    shuffles: Annotated[int, Field(ge=2)] = 20
    """Fits on shuffled labels."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check says."""

    check: str
    outcome: Outcome
    detail: str
    """One sentence with values; of a failure, what leaks where."""
    evidence: Mapping[str, float | str] = field(default_factory=dict)


def least_squares(x_NF: Doubles, y_N: Doubles, x_MF: Doubles) -> Doubles:
    """The learner of the canaries: ordinary least squares with a little ridge, on standardised features; NaN counts as the mean."""
    mean, spread = np.nanmean(x_NF, axis=0), np.nanstd(x_NF, axis=0)
    train, ask = (np.nan_to_num((x - mean) / np.where(spread > 0.0, spread, 1.0)) for x in (x_NF, x_MF))
    gram = train.T @ train + 1e-3 * len(train) * np.eye(train.shape[1])
    weights: Doubles = np.linalg.solve(gram, train.T @ (y_N - y_N.mean()))
    forecast: Doubles = ask @ weights + y_N.mean()
    return forecast


@dataclass(frozen=True, kw_only=True)
class AuditInputs:
    """What a run holds, as far as an audit needs it."""

    rows: pl.DataFrame
    """What the models were given, one row per target: symbol, timestamp, segment, outcome (the primary label), and the feature
    columns at the decision bar."""
    feature_columns: tuple[str, ...]
    labels: pl.DataFrame
    """The label table: symbol, timestamp, outcome, t_end (when the row is known; null where it is not yet)."""
    bars: pl.DataFrame
    """symbol, timestamp, close of every symbol, sorted."""
    split: SplitPlan
    moments: Mapping[str, tuple[float, float]]
    """Feature to mean and standard deviation that scale it."""
    stored_features: pl.DataFrame
    """symbol, timestamp and features of some symbols, from the feature table."""
    cut_bars: Mapping[str, pl.DataFrame]
    """Bars of those symbols, with all that features read."""
    recompute: Callable[[pl.DataFrame], pl.DataFrame]
    """Bars of one symbol to timestamp and features: what the feature stage does."""
    bar_length: Any
    """timedelta."""
    answers: pl.DataFrame
    """What models answered on the test segment: model, symbol, timestamp, expected_return."""
    looks: int
    """Evaluations of this test period so far, this run's included."""
    instruments: pl.DataFrame | None = None
    """symbol, listed_at, delisted_at of all that could have been traded; None where the recipe names none."""
    learner: Learner = least_squares


Check = Callable[[AuditInputs, AuditConfig], Finding]
