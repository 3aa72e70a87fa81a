"""Moving-window statistics that need more than sums: regression, correlation, ranks, quantiles, moments. Compiled.

They keep the promise of `windows`: every value is worked out from its own window alone, oldest bar first, so the same
bars give the same bits wherever the series starts or stops, and a NaN touches only the windows that hold it. Blocks of
neighbouring windows are walked together, so that the compiler fills SIMD lanes across windows and never reorders the
sum inside one.

Shapes: T bars, n bars in a window. Every function returns shape (T,), NaN until the first whole window.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from quantfleet_data.features.windows import Array

__all__ = [
    "Bools",
    "neutral_without_volume",
    "rolling_autocorrelation",
    "rolling_correlation",
    "rolling_moments",
    "rolling_place_of_max",
    "rolling_place_of_min",
    "rolling_quantile",
    "rolling_rank",
    "rolling_trend",
]

Bools: TypeAlias = npt.NDArray[np.bool_]
_BLOCK = 128  # windows walked together: a block's accumulators stay in the first-level cache


def neutral_without_volume(values_T: Array, first_bar: int, *, neutral: float = 0.0) -> Array:
    """Turn NaN into the neutral value from bar `first_bar` on, in place: there only a null volume can have caused it."""
    tail = values_T[first_bar:]
    tail[np.isnan(tail)] = neutral
    return values_T


def rolling_trend(x_T: Array, n: int) -> tuple[Array, Array, Array]:
    """Least-squares line through the last n values, one unit of time apart.

    Returns: slope per bar; R squared in 0..1, 0 where all values are equal; the newest value less the line there.
    """
    slope, fit, residual = (np.full(x_T.shape, np.nan) for _ in range(3))
    _trend(np.ascontiguousarray(x_T), n, slope, fit, residual)
    return slope, fit, residual


def rolling_correlation(x_T: Array, y_T: Array, n: int) -> Array:
    """Pearson correlation of the last n pairs, in -1..1; exactly 0.0 where either side is constant."""
    out = np.full(x_T.shape, np.nan)
    _correlation(np.ascontiguousarray(x_T), np.ascontiguousarray(y_T), n, out)
    return out


def rolling_autocorrelation(x_T: Array, n: int, shift: int = 1) -> Array:
    """Autocorrelation at `shift` bars inside the last n values, about their common mean; 0.0 where they are equal."""
    out = np.full(x_T.shape, np.nan)
    _autocorrelation(np.ascontiguousarray(x_T), n, shift, out)
    return out


def rolling_moments(x_T: Array, n: int) -> tuple[Array, Array]:
    """Skewness m3 / m2^1.5 and excess kurtosis m4 / m2^2 - 3 of the last n values; both 0.0 where they are equal."""
    skewness, kurtosis = np.full(x_T.shape, np.nan), np.full(x_T.shape, np.nan)
    _moments(np.ascontiguousarray(x_T), n, skewness, kurtosis)
    return skewness, kurtosis


def rolling_rank(x_T: Array, n: int) -> Array:
    """Rank of the newest of the last n values among them as a share of n, in (0, 1]; ties share their average rank."""
    out = np.full(x_T.shape, np.nan)
    _rank(np.ascontiguousarray(x_T), n, out)
    return out


def rolling_quantile(x_T: Array, n: int, share: float) -> Array:
    """Quantile of the last n values, interpolated linearly between the two nearest. `share` in 0..1."""
    out = np.full(x_T.shape, np.nan)
    _quantile(np.ascontiguousarray(x_T) + 0.0, n, share, out)  # + 0.0 makes every -0.0 a 0.0: one bit pattern each
    return out


def rolling_place_of_max(x_T: Array, n: int) -> Array:
    """Place of the largest of the last n values, 1 for the oldest bar, n for the newest; the oldest of equals."""
    out = np.full(x_T.shape, np.nan)
    _place(np.ascontiguousarray(x_T), n, 1.0, out)
    return out


def rolling_place_of_min(x_T: Array, n: int) -> Array:
    """Place of the smallest of the last n values, 1 for the oldest bar, n for the newest; the oldest of equals."""
    out = np.full(x_T.shape, np.nan)
    _place(np.ascontiguousarray(x_T), n, -1.0, out)
    return out


@njit(cache=True, nogil=True)
def _trend(x_T: Array, n: int, slope_T: Array, fit_T: Array, residual_T: Array) -> None:
    windows, centre = x_T.size - n + 1, (n - 1) / 2.0
    squares_x = n * (n * n - 1.0) / 12.0
    mean, cross, squares = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    for first in range(0, windows, _BLOCK):
        width = min(_BLOCK, windows - first)
        newest = x_T[first + n - 1 : first + n - 1 + width]
        for j in range(width):
            mean[j] = cross[j] = squares[j] = 0.0
        for k in range(n):
            oldest = x_T[first + k : first + k + width]
            for j in range(width):
                distance = oldest[j] - newest[j]
                mean[j] += distance
                cross[j] += (k - centre) * distance
        for j in range(width):
            mean[j] /= n
        for k in range(n):
            oldest = x_T[first + k : first + k + width]
            for j in range(width):
                deviation = (oldest[j] - newest[j]) - mean[j]
                squares[j] += deviation * deviation
        for j in range(width):
            at = first + n - 1 + j
            slope = cross[j] / squares_x if n > 1 else 0.0 * cross[j]
            slope_T[at] = slope
            residual_T[at] = -mean[j] - slope * centre
            fit_T[at] = 0.0 if squares[j] == 0.0 else min(slope * cross[j] / squares[j], 1.0)
            if math.isnan(squares[j]):
                fit_T[at] = np.nan


@njit(cache=True, nogil=True)
def _correlation(x_T: Array, y_T: Array, n: int, out_T: Array) -> None:
    windows = x_T.size - n + 1
    mean_x, mean_y = np.empty(_BLOCK), np.empty(_BLOCK)
    xx, yy, xy = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    for first in range(0, windows, _BLOCK):
        width = min(_BLOCK, windows - first)
        new_x, new_y = x_T[first + n - 1 : first + n - 1 + width], y_T[first + n - 1 : first + n - 1 + width]
        for j in range(width):
            mean_x[j] = mean_y[j] = xx[j] = yy[j] = xy[j] = 0.0
        for k in range(n):
            old_x, old_y = x_T[first + k : first + k + width], y_T[first + k : first + k + width]
            for j in range(width):
                mean_x[j] += old_x[j] - new_x[j]
                mean_y[j] += old_y[j] - new_y[j]
        for j in range(width):
            mean_x[j] /= n
            mean_y[j] /= n
        for k in range(n):
            old_x, old_y = x_T[first + k : first + k + width], y_T[first + k : first + k + width]
            for j in range(width):
                dx = (old_x[j] - new_x[j]) - mean_x[j]
                dy = (old_y[j] - new_y[j]) - mean_y[j]
                xx[j] += dx * dx
                yy[j] += dy * dy
                xy[j] += dx * dy
        for j in range(width):
            if math.isnan(xy[j]):
                value = np.nan
            elif xx[j] == 0.0 or yy[j] == 0.0:
                value = 0.0
            else:
                value = min(max(xy[j] / (math.sqrt(xx[j]) * math.sqrt(yy[j])), -1.0), 1.0)
            out_T[first + n - 1 + j] = value


@njit(cache=True, nogil=True)
def _autocorrelation(x_T: Array, n: int, shift: int, out_T: Array) -> None:
    windows = x_T.size - n + 1
    mean, squares, cross = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    for first in range(0, windows, _BLOCK):
        width = min(_BLOCK, windows - first)
        newest = x_T[first + n - 1 : first + n - 1 + width]
        for j in range(width):
            mean[j] = squares[j] = cross[j] = 0.0
        for k in range(n):
            oldest = x_T[first + k : first + k + width]
            for j in range(width):
                mean[j] += oldest[j] - newest[j]
        for j in range(width):
            mean[j] /= n
        for k in range(n):
            oldest = x_T[first + k : first + k + width]
            for j in range(width):
                deviation = (oldest[j] - newest[j]) - mean[j]
                squares[j] += deviation * deviation
        for k in range(shift, n):
            here, before = x_T[first + k : first + k + width], x_T[first + k - shift : first + k - shift + width]
            for j in range(width):
                cross[j] += ((here[j] - newest[j]) - mean[j]) * ((before[j] - newest[j]) - mean[j])
        for j in range(width):
            value = 0.0 if squares[j] == 0.0 else cross[j] / squares[j]
            out_T[first + n - 1 + j] = value


@njit(cache=True, nogil=True)
def _moments(x_T: Array, n: int, skewness_T: Array, kurtosis_T: Array) -> None:
    windows = x_T.size - n + 1
    mean, second, third, fourth = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    for first in range(0, windows, _BLOCK):
        width = min(_BLOCK, windows - first)
        newest = x_T[first + n - 1 : first + n - 1 + width]
        for j in range(width):
            mean[j] = second[j] = third[j] = fourth[j] = 0.0
        for k in range(n):
            oldest = x_T[first + k : first + k + width]
            for j in range(width):
                mean[j] += oldest[j] - newest[j]
        for j in range(width):
            mean[j] /= n
        for k in range(n):
            oldest = x_T[first + k : first + k + width]
            for j in range(width):
                deviation = (oldest[j] - newest[j]) - mean[j]
                square = deviation * deviation
                second[j] += square
                third[j] += square * deviation
                fourth[j] += square * square
        for j in range(width):
            at, variance = first + n - 1 + j, second[j] / n
            if variance * variance == 0.0:  # squared: the smallest numbers lose their fourth power first
                skewness_T[at] = kurtosis_T[at] = 0.0
            else:
                skewness_T[at] = third[j] / n / (variance * math.sqrt(variance))
                kurtosis_T[at] = fourth[j] / n / (variance * variance) - 3.0


@njit(cache=True, nogil=True)
def _rank(x_T: Array, n: int, out_T: Array) -> None:
    windows = x_T.size - n + 1
    score, nans = np.empty(_BLOCK), np.empty(_BLOCK)
    for first in range(0, windows, _BLOCK):
        width = min(_BLOCK, windows - first)
        newest = x_T[first + n - 1 : first + n - 1 + width]
        for j in range(width):
            score[j], nans[j] = 0.5, 0.0
        for k in range(n):
            oldest = x_T[first + k : first + k + width]
            for j in range(width):
                score[j] += 1.0 if oldest[j] < newest[j] else (0.5 if oldest[j] == newest[j] else 0.0)
                nans[j] += 1.0 if oldest[j] != oldest[j] else 0.0
        for j in range(width):
            out_T[first + n - 1 + j] = score[j] / n if nans[j] == 0.0 else np.nan


@njit(cache=True, nogil=True)
def _quantile(x_T: Array, n: int, share: float, out_T: Array) -> None:
    """Keep the window's numbers sorted; the result is a function of their values alone, not of how they came there."""
    window, held, nans = np.empty(n + 1), 0, 0
    place = share * (n - 1)
    below = min(int(place), n - 1)
    above, part = min(below + 1, n - 1), place - below
    for t in range(x_T.size):
        value = x_T[t]
        if math.isnan(value):
            nans += 1
        else:
            at = held
            while at > 0 and window[at - 1] > value:
                window[at] = window[at - 1]
                at -= 1
            window[at] = value
            held += 1
        if t >= n:
            gone = x_T[t - n]
            if math.isnan(gone):
                nans -= 1
            else:
                at = np.searchsorted(window[:held], gone)
                for i in range(at, held - 1):
                    window[i] = window[i + 1]
                held -= 1
        if t >= n - 1 and nans == 0:
            out_T[t] = window[below] + part * (window[above] - window[below])


@njit(cache=True, nogil=True)
def _place(x_T: Array, n: int, sign: float, out_T: Array) -> None:
    windows = x_T.size - n + 1
    best, place, nans = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    for first in range(0, windows, _BLOCK):
        width = min(_BLOCK, windows - first)
        for j in range(width):
            best[j], place[j], nans[j] = -np.inf, 1.0, 0.0
        for k in range(n):
            oldest = x_T[first + k : first + k + width]
            for j in range(width):
                value = sign * oldest[j]
                larger = value > best[j]
                best[j] = value if larger else best[j]
                place[j] = k + 1.0 if larger else place[j]
                nans[j] += 1.0 if value != value else 0.0
        for j in range(width):
            out_T[first + n - 1 + j] = place[j] if nans[j] == 0.0 else np.nan
