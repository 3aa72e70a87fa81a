"""Fractional differencing of the log close with a window of fixed width. Known at the close of bar t.

y_t = sum over k < W of w_k ln(close_{t-k}): between the price (order 0, all memory) and the return (order 1, none).

A plain FFT convolution is fast and leaks: samples of a block are rounded together, so a value's last bits depend on
prices after it. Here the history is cut into blocks of 128 bars from its first bar on. What closed blocks add to the
running one comes from spectra of closed blocks only; what the running block adds to itself is summed bar by bar. So a
value depends on no later bar, to the bit, and bars may come one by one or all at once. It is a function of the window
and of the place in the grid, which the state carries: hence `recursive`.

Cost per bar: 12 complex products and 64 real ones on average, for a window of 1458 bars. Memory: a few 100 kB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import polars as pl
from numba import njit

from quantfleet.contracts import register_feature
from quantfleet.contracts.feature import FeatureState, Scaling
from quantfleet.errors import ConfigError, DataError
from quantfleet_data.features.base import Feature
from quantfleet_data.features.windows import Array, column

__all__ = ["FractionalDifference", "causal_convolution", "fractional_weights"]

_BLOCK = 128
_LANES = 64  # blocks worked on together, neighbours in memory: long SIMD loops that still fit the second-level cache
_WIDEST = 100_000


@lru_cache(maxsize=64)
def fractional_weights(order: float, threshold: float) -> tuple[float, ...]:
    """Weights of (1 - B)^order, newest bar first, down to the last one whose size reaches the threshold.

    Raises: ConfigError: more than 100,000 weights reach it.
    Source: Hosking (1981), Fractional differencing, Biometrika 68; fixed width: Lopez de Prado (2018), Advances in
        Financial Machine Learning, 5.5.
    """
    weights = [1.0]
    while True:
        k = len(weights)
        following = -weights[-1] * (order - k + 1) / k
        if abs(following) < threshold:
            return tuple(weights)
        if k == _WIDEST:
            raise ConfigError(
                f"fractional_difference: more than {_WIDEST} weights of order={order} reach threshold={threshold}; "
                "raise the threshold."
            )
        weights.append(following)


def causal_convolution(x_T: Array, weights: tuple[float, ...]) -> Array:
    """y_t = sum_k weights[k] x_{t-k}, x taken as 0 before its first value. Shape (T,); x finite.

    A value depends on x_0..x_t alone, to the bit. Error below 1e-14 of the largest |x| times the sum of |weights|.
    """
    blocks = -(-x_T.size // _BLOCK)
    lanes = next(n for n in (1, 8, 16, _LANES) if n >= min(blocks, _LANES))  # the bits do not depend on it
    result: Array = _convolve(np.ascontiguousarray(x_T), lanes, *_spectra(weights))
    return result


@register_feature("fractional_difference")
@dataclass(frozen=True, kw_only=True, slots=True)
class FractionalDifference(Feature):
    """Fractional difference of the log close: as stationary as `order` makes it, with the memory that leaves.

    A change of the price's unit shifts it by a constant, since the weights of a finite window do not add up to zero.
    """

    definition: ClassVar[str] = "Lopez de Prado (2018), Advances in Financial Machine Learning, 5.5: fixed-width window"
    recursive: ClassVar[bool] = True
    scaling: ClassVar[Scaling] = "none"
    order: float = 0.4
    threshold: float = 1e-4
    """Weights smaller than this are cut off: 1e-5 leaves 1458 bars at order 0.4, 1e-4 leaves 282."""

    def __post_init__(self) -> None:
        Feature.__post_init__(self)
        if self.threshold >= 1.0:
            raise ConfigError(f"feature {self.kind}: threshold={self.threshold} cuts every weight; set it below 1.")
        fractional_weights(self.order, self.threshold)

    @property
    def lookback_bars(self) -> int:
        return len(fractional_weights(self.order, self.threshold))

    def values(self, bars: pl.DataFrame) -> Array:
        return self._differences(np.log(column(bars, "close")), 0)

    def advance(self, bars: pl.DataFrame, new_bars: int, state: FeatureState | None) -> tuple[Array, FeatureState]:
        """As the contract says; the state is the count of bars and the log closes of the blocks that still matter."""
        self.check_advance(bars, new_bars, state)
        seen, known = 0, np.empty(0)
        if state is not None:
            if state.size < 1 or state.size - 1 != self._kept(int(state[0])):
                raise DataError(f"feature {self.column!r} was given the state of another feature.", feature=self.column)
            seen, known = int(state[0]), state[1:]
        logs = np.concatenate([known, np.log(column(bars.tail(new_bars), "close"))])
        values = self._differences(logs, known.size)
        values[: max(self.lookback_bars - 1 - seen, 0)] = np.nan
        seen += new_bars
        return values, np.concatenate([[float(seen)], logs[logs.size - self._kept(seen) :]])

    def _kept(self, seen: int) -> int:
        """Bars to carry after `seen`: the running block and the closed ones its window reaches."""
        running = seen % _BLOCK
        reach = -(-(self.lookback_bars - 1) // _BLOCK) * _BLOCK
        return min(running + reach, seen)

    def _differences(self, logs: Array, known: int) -> Array:
        """Values of `logs[known:]`; `logs` begins at the start of a block."""
        missing = np.isnan(logs)
        values = causal_convolution(np.where(missing, 0.0, logs), fractional_weights(self.order, self.threshold))
        if missing.any():  # exactly the windows that hold one
            since = np.arange(logs.size) - np.maximum.accumulate(np.where(missing, np.arange(logs.size), -logs.size))
            values[since < self.lookback_bars] = np.nan
        return values[known:]


@lru_cache(maxsize=16)
def _spectra(weights: tuple[float, ...]) -> tuple[Array, Array, Array, Array, Array]:
    """What the convolution needs of its weights: those of the running block, spectra of the others, and the roots.

    A block of B bars is a polynomial in C[z] / (z^B - i), where a real one of length 2B stands as its first half + i times
    its second: the product with 2B weights then has the B valid sums as its imaginary part, and B complex numbers do what
    2B do otherwise. Source: Nussbaumer (1982), FFT and Convolution Algorithms, ch. 8 (right-angle convolution).
    """
    reach = max(-(-(len(weights) - 1) // _BLOCK), 0)
    padded = np.zeros((reach + 2) * _BLOCK)
    padded[: len(weights)] = weights
    angles = np.arange(_BLOCK) * (math.pi / (2 * _BLOCK))
    twist = np.stack([np.cos(angles), np.sin(angles)])
    turns = np.arange(_BLOCK // 2) * (2.0 * math.pi / _BLOCK)
    roots = np.stack([np.cos(turns), -np.sin(turns)])
    real, imaginary = np.zeros((_BLOCK, reach)), np.zeros((_BLOCK, reach))
    for d in range(reach):
        first, second = padded[d * _BLOCK : (d + 1) * _BLOCK], padded[(d + 1) * _BLOCK : (d + 2) * _BLOCK]
        lane = np.empty((2, _BLOCK, 1))
        lane[0, :, 0] = (first * twist[0] - second * twist[1]) / _BLOCK  # the inverse transform's 1 / B
        lane[1, :, 0] = (first * twist[1] + second * twist[0]) / _BLOCK
        _forward(lane[0], lane[1], roots)
        real[:, d], imaginary[:, d] = lane[0, :, 0], lane[1, :, 0]
    return padded[:_BLOCK].copy(), real, imaginary, twist, roots


@njit(cache=True, nogil=True)
def _forward(re: Array, im: Array, roots: Array) -> None:
    """Transform each lane in place; the result is in bit-reversed order (decimation in frequency)."""
    half, stride, lanes = _BLOCK // 2, 1, re.shape[1]
    while half >= 1:
        for start in range(0, _BLOCK, 2 * half):
            for k in range(half):
                c, s = roots[0, k * stride], roots[1, k * stride]
                re_a, re_b, im_a, im_b = re[start + k], re[start + k + half], im[start + k], im[start + k + half]
                for v in range(lanes):
                    dr, di = re_a[v] - re_b[v], im_a[v] - im_b[v]
                    re_a[v] += re_b[v]
                    im_a[v] += im_b[v]
                    re_b[v] = dr * c - di * s
                    im_b[v] = dr * s + di * c
        half //= 2
        stride *= 2


@njit(cache=True, nogil=True)
def _inverse(re: Array, im: Array, roots: Array) -> None:
    """Undo `_forward`, times B (decimation in time, from bit-reversed order)."""
    half, stride, lanes = 1, _BLOCK // 2, re.shape[1]
    while half < _BLOCK:
        for start in range(0, _BLOCK, 2 * half):
            for k in range(half):
                c, s = roots[0, k * stride], -roots[1, k * stride]
                re_a, re_b, im_a, im_b = re[start + k], re[start + k + half], im[start + k], im[start + k + half]
                for v in range(lanes):
                    tr, ti = re_b[v] * c - im_b[v] * s, re_b[v] * s + im_b[v] * c
                    re_b[v] = re_a[v] - tr
                    im_b[v] = im_a[v] - ti
                    re_a[v] += tr
                    im_a[v] += ti
        half *= 2
        stride //= 2


@njit(cache=True, nogil=True)
def _add_closed_blocks(re: Array, im: Array, past_re: Array, past_im: Array, far_re: Array, far_im: Array) -> None:
    """Products with the spectra of 1, 2, ... blocks back, the newest first, two a pass; overwrites re and im."""
    reach, lanes = far_re.shape[1], re.shape[1]
    for f in range(_BLOCK):
        r, i = re[f], im[f]
        for v in range(lanes):
            r[v] = i[v] = 0.0
        for d in range(0, reach - 1, 2):
            a, b, c, e = far_re[f, d], far_im[f, d], far_re[f, d + 1], far_im[f, d + 1]
            at = reach - 1 - d
            x, y, p, q = past_re[f, at:], past_im[f, at:], past_re[f, at - 1 :], past_im[f, at - 1 :]
            for v in range(lanes):
                r[v] = (r[v] + (a * x[v] - b * y[v])) + (c * p[v] - e * q[v])
                i[v] = (i[v] + (a * y[v] + b * x[v])) + (c * q[v] + e * p[v])
        if reach % 2:
            a, b, x, y = far_re[f, reach - 1], far_im[f, reach - 1], past_re[f], past_im[f]
            for v in range(lanes):
                r[v] += a * x[v] - b * y[v]
                i[v] += a * y[v] + b * x[v]


@njit(cache=True, nogil=True)
def _add_own_block(sums: Array, own: Array, near: Array) -> None:
    """sums[j] += near[j - i] own[i] for i = 0..j, in this order, four a pass."""
    lanes = own.shape[1]
    for j in range(_BLOCK):
        row, done = sums[j], (j + 1) // 4 * 4
        for i in range(0, done, 4):
            w, x, y, z = near[j - i], near[j - i - 1], near[j - i - 2], near[j - i - 3]
            a, b, c, d = own[i], own[i + 1], own[i + 2], own[i + 3]
            for v in range(lanes):
                row[v] = (((row[v] + w * a[v]) + x * b[v]) + y * c[v]) + z * d[v]
        for i in range(done, j + 1):
            w, a = near[j - i], own[i]
            for v in range(lanes):
                row[v] += w * a[v]


@njit(cache=True, nogil=True)
def _convolve(x_T: Array, lanes: int, near: Array, far_re: Array, far_im: Array, twist: Array, roots: Array) -> Array:
    size, reach = x_T.size, far_re.shape[1]
    out, own = np.empty(size), np.empty((_BLOCK, lanes))
    re, im = np.empty((_BLOCK, lanes)), np.empty((_BLOCK, lanes))
    past_re, past_im = np.zeros((_BLOCK, reach + lanes)), np.zeros((_BLOCK, reach + lanes))
    for first in range(0, size, _BLOCK * lanes):
        for v in range(lanes):
            start = first + v * _BLOCK
            held = min(max(size - start, 0), _BLOCK)
            for n in range(held):
                own[n, v] = x_T[start + n]
            for n in range(held, _BLOCK):
                own[n, v] = 0.0
        for n in range(_BLOCK):
            c, s, a, b, x = twist[0, n], twist[1, n], re[n], im[n], own[n]
            for v in range(lanes):
                a[v], b[v] = x[v] * c, x[v] * s
        _forward(re, im, roots)
        for f in range(_BLOCK):
            x, y, a, b = past_re[f], past_im[f], re[f], im[f]
            for v in range(lanes):
                x[reach + v], y[reach + v] = a[v], b[v]
        _add_closed_blocks(re, im, past_re, past_im, far_re, far_im)
        for f in range(_BLOCK):
            x, y = past_re[f], past_im[f]
            for d in range(reach):  # ascending, so that nothing is overwritten before it is read
                x[d], y[d] = x[d + lanes], y[d + lanes]
        _inverse(re, im, roots)
        for n in range(_BLOCK):
            c, s, a, b = twist[0, n], twist[1, n], re[n], im[n]
            for v in range(lanes):
                a[v] = (b[v] * c - a[v] * s) + 0.0  # + 0.0: no -0.0 whose sign a later zero could change
        _add_own_block(re, own, near)
        for v in range(lanes):
            start = first + v * _BLOCK
            for n in range(min(max(size - start, 0), _BLOCK)):
                out[start + n] = re[n, v]
    return out
