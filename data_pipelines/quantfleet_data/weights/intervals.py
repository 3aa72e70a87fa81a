"""How much of its own each label tells, when labels overlap in time.

Source: Lopez de Prado (2018), Advances in Financial Machine Learning, ch. 4. The published snippets look at every label for every
bar, O(N T); here difference arrays and prefix sums give the same in O(N + T).

Shapes: T bars of one symbol, N labels; label i spans bars first[i]..last[i], both included.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from quantfleet_data.features.windows import Array

__all__ = ["average_uniqueness", "concurrency", "return_attribution", "sequential_bootstrap", "time_decay"]

Indices = npt.NDArray[np.int64]


def concurrency(first_N: Indices, last_N: Indices, bars: int) -> Indices:
    """How many labels span each bar, shape (T,). Source: snippet 4.1.

    Raises: ValueError: a label that ends before it begins, or lies outside 0..bars-1.
    """
    _check(first_N, last_N, bars)
    change = np.bincount(first_N, minlength=bars + 1) - np.bincount(last_N + 1, minlength=bars + 1)
    return np.cumsum(change)[:bars].astype(np.int64)


def average_uniqueness(first_N: Indices, last_N: Indices, bars: int) -> Array:
    """Mean over a label's bars of 1 / concurrency, in (0, 1], shape (N,); 1 where no other label overlaps. Source: snippet 4.2."""
    count_T = concurrency(first_N, last_N, bars)
    return _span_sums(1.0 / np.maximum(count_T, 1), first_N, last_N) / (last_N - first_N + 1)


def return_attribution(first_N: Indices, last_N: Indices, log_returns_T: Array) -> Array:
    """Absolute log return that is a label's own: |sum over its bars of return / concurrency|, shape (N,). Source: snippet 4.10.

    Args:
        log_returns_T: log return of each bar; every bar that a label spans must have one.
    Raises: ValueError: a label spans a bar without a return.
    """
    count_T = concurrency(first_N, last_N, log_returns_T.size)
    spanned = count_T > 0
    if not np.isfinite(log_returns_T[spanned]).all():
        at = int(np.flatnonzero(spanned & ~np.isfinite(log_returns_T))[0])
        raise ValueError(f"bar {at} has no return, and a label spans it.")
    share_T = np.where(spanned, log_returns_T, 0.0) / np.maximum(count_T, 1)
    return np.abs(_span_sums(share_T, first_N, last_N))


def time_decay(uniqueness_N: Array, oldest: float) -> Array:
    """Factor per label, 1.0 for the newest, falling in a straight line with the uniqueness gathered since. Source: snippet 4.11.

    Args:
        uniqueness_N: average uniqueness of the labels, oldest first.
        oldest: in (-1, 1]. From 0 to 1: the factor that the line reaches before the oldest label. Below 0: the share of the
            gathered uniqueness, the oldest, that counts for nothing.
    Raises: ValueError: `oldest` out of range.
    """
    if not -1.0 < oldest <= 1.0:
        raise ValueError(f"oldest={oldest} must lie above -1 and not above 1.")
    gathered = np.cumsum(uniqueness_N)
    if not gathered.size or gathered[-1] <= 0.0:
        return np.ones_like(gathered)
    slope = (1.0 - oldest) / gathered[-1] if oldest >= 0.0 else 1.0 / ((oldest + 1.0) * gathered[-1])
    decayed: Array = np.maximum(1.0 - slope * (gathered[-1] - gathered), 0.0)
    return decayed


def sequential_bootstrap(
    first_N: Indices, last_N: Indices, bars: int, *, draws: int, rng: np.random.Generator
) -> Indices:
    """Draw labels with replacement, each with a chance proportional to its uniqueness among those drawn before it.

    Args:
        draws: how many to draw.
        rng: the source of chance; the same state draws the same.
    Returns: label numbers in the order drawn, shape (draws,).
    Cost: O(draws * (N + T)) time, O(N + T) memory.
    Source: snippets 4.4 and 4.5.
    """
    _check(first_N, last_N, bars)
    if not first_N.size and draws:
        raise ValueError(f"draws={draws}, but there are no labels to draw from.")
    drawn: Indices = _draw(first_N, last_N, bars, rng.random(draws))
    return drawn


@njit(cache=True, nogil=True)
def _draw(first: Indices, last: Indices, bars: int, chances: Array) -> Indices:
    count = np.zeros(bars, np.int64)
    before, weight = np.zeros(bars + 1), np.empty(first.size)
    drawn = np.empty(chances.size, np.int64)
    for number in range(chances.size):
        for t in range(bars):
            before[t + 1] = before[t] + 1.0 / (count[t] + 1)
        total = 0.0
        for i in range(first.size):
            total += (before[last[i] + 1] - before[first[i]]) / (last[i] - first[i] + 1)
            weight[i] = total
        pick = min(np.searchsorted(weight, chances[number] * total, side="right"), first.size - 1)
        drawn[number] = pick
        count[first[pick] : last[pick] + 1] += 1
    return drawn


def _span_sums(x_T: Array, first_N: Indices, last_N: Indices) -> Array:
    before = np.concatenate([[0.0], np.cumsum(x_T)])
    sums: Array = before[last_N + 1] - before[first_N]
    return sums


def _check(first_N: Indices, last_N: Indices, bars: int) -> None:
    wrong = np.flatnonzero((first_N < 0) | (last_N < first_N) | (last_N >= bars))
    if wrong.size:
        i = int(wrong[0])
        raise ValueError(
            f"label {i} spans bars {first_N[i]}..{last_N[i]}; it must lie within 0..{bars - 1} and not end early."
        )
