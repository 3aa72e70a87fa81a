"""Drift: how far the numbers a model meets today have moved from those it was fitted on.

Shapes: N values, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Drift", "ReferenceBins", "compare_counts"]

Values = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BINS = 10
MODERATE_PSI = 0.1
LARGE_PSI = 0.25
"""The usual reading of the index: below 0.1 no change, 0.1 to 0.25 some, above it a change to act on (Siddiqi 2006)."""


@dataclass(frozen=True, slots=True)
class ReferenceBins:
    """Bins of equal weight in the reference values; both periods are counted in them, in any number of parts."""

    edges: tuple[float, ...]
    """Rising inner edges: value v lies in bin number `searchsorted(edges, v, side="left")`."""

    @classmethod
    def of(cls, sample_N: Values, bins: int = BINS) -> ReferenceBins:
        """Quantile bins of a sample of the reference. NaN is left out; equal quantiles (a feature of few values) are merged.

        Raises: ValueError: the sample has no finite value, or fewer than two bins are asked for.
        """
        known = sample_N[np.isfinite(sample_N)]
        if not len(known) or bins < 2:
            raise ValueError(f"{len(known)} finite values and {bins} bins: at least 1 and 2 are needed.")
        inner = np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])
        return cls(tuple(float(edge) for edge in np.unique(inner)))

    def count(self, values_N: Values) -> Counts:
        """Shape (B + 1,): values a bin, and the undefined ones last. Counts of parts add up to the counts of the whole."""
        known = values_N[np.isfinite(values_N)]
        places = np.searchsorted(np.asarray(self.edges), known, side="left")
        counts = np.bincount(places, minlength=len(self.edges) + 1)
        return np.append(counts, len(values_N) - len(known)).astype(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """One feature, reference against current."""

    psi: float
    """Population stability index, 0 when nothing moved; NaN when one side has no defined value."""
    ks: float
    """Largest distance between the two distribution functions at the bins' edges, 0 to 1: a lower bound of the
    Kolmogorov-Smirnov statistic."""
    undefined_reference: float
    undefined_current: float
    """Shares of undefined values."""
    current: int
    """Values that were compared, undefined ones included."""

    @property
    def verdict(self) -> str:
        """ "stable", "moderate", "large", or "undefined"."""
        if np.isnan(self.psi):
            return "undefined"
        return "large" if self.psi > LARGE_PSI else "moderate" if self.psi > MODERATE_PSI else "stable"


def compare_counts(reference: Counts, current: Counts) -> Drift:
    """Compare what `ReferenceBins.count` gave for two periods.

    An empty bin counts as half a value, so that the index stays finite.

    Raises: ValueError: they were counted in different bins.
    Source: Siddiqi (2006), Credit Risk Scorecards: sum over the bins of (q - p) ln(q / p).
    """
    if reference.shape != current.shape:
        raise ValueError(f"counts of {len(reference)} and {len(current)} bins cannot be compared; use the same bins.")
    expected, actual = reference[:-1].astype(np.float64), current[:-1].astype(np.float64)
    psi = ks = float("nan")
    if expected.sum() and actual.sum():
        p, q = (np.maximum(counts, 0.5) for counts in (expected, actual))
        p, q = p / p.sum(), q / q.sum()
        psi = float(np.sum((q - p) * np.log(q / p)))
        ks = float(np.max(np.abs(np.cumsum(expected) / expected.sum() - np.cumsum(actual) / actual.sum())))
    return Drift(
        psi=psi,
        ks=ks,
        undefined_reference=_share(reference),
        undefined_current=_share(current),
        current=int(current.sum()),
    )


def _share(counts: Counts) -> float:
    total = int(counts.sum())
    return float(counts[-1]) / total if total else float("nan")
