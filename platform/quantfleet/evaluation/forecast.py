"""How good a forecast is, whatever one would trade on it. Undefined is NaN, never 0.

Shapes: B chunks, C targets of a chunk, H horizons, K = 3 H label columns, N rows.

Rows and ties, the same everywhere here:
- A row whose outcome is not known (NaN) is left out. A forecast of NaN where the outcome is known makes the score NaN:
  a model that answers with NaN must not look better for it.
- A call is a forecast that is not exactly 0; a forecast of exactly 0 calls neither up nor down and is no part of the
  accuracy. An outcome of exactly 0 is "not up", as in the direction label: a call of down is right there.
- The share of up moves is reported beside the accuracy: always calling up scores just that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts.chunk import ChunkBatch, DataSpec
from quantfleet.contracts.forecast import Forecast

__all__ = ["call_share", "directional_accuracy", "information_coefficient", "rank_ic", "score_forecasts", "up_share"]

Array = npt.NDArray[np.floating[Any]]


def score_forecasts(spec: DataSpec, pairs: Iterator[tuple[ChunkBatch, Forecast]]) -> dict[str, float]:
    """Score forecasts against the labels that travel with their batches, in one pass and constant memory.

    Targets count where the mask is true and the label finite.

    Args:
        spec: names the horizons and the order of label columns.
        pairs: batches with their forecasts.
    Returns: for each horizon h: `mse_return_h`, `directional_accuracy_h` (sign of the direction logit), `up_share_h`,
        `ic_h` (Pearson correlation of expected and realised return, pooled over symbols and times),
        `mse_volatility_h`, and `targets_h`, how many realised returns were scored.
    """
    sums = [_Sums() for _ in spec.horizons_bars]
    count = len(sums)
    for batch, forecast in pairs:
        for h, total in enumerate(sums):
            realised_BC, volatility_BC = batch.y_BCK[..., h], batch.y_BCK[..., 2 * count + h]
            known_BC = batch.mask_BC & np.isfinite(realised_BC)
            total.add_returns(
                forecast.return_BCH[..., h][known_BC].astype(np.float64),
                forecast.direction_logit_BCH[..., h][known_BC].astype(np.float64),
                realised_BC[known_BC].astype(np.float64),
            )
            known_BC = batch.mask_BC & np.isfinite(volatility_BC)
            total.add_volatility(
                forecast.volatility_BCH[..., h][known_BC].astype(np.float64), volatility_BC[known_BC].astype(np.float64)
            )
    return {f"{name}_{h}": v for h, s in zip(spec.horizons_bars, sums, strict=True) for name, v in s.scores().items()}


def information_coefficient(forecast_N: Array, realised_N: Array) -> float:
    """Pearson correlation of forecasts and outcomes over all rows (pooled).

    Returns: a number in [-1, 1]; NaN with fewer than two known rows, or when either side is constant.
    """
    moments = _Moments()
    moments.add(*_known(forecast_N, realised_N))
    return moments.correlation()


def rank_ic(forecast_N: Array, realised_N: Array) -> float:
    """Spearman correlation of forecasts and outcomes over all rows (pooled); ties share their average rank."""
    forecast, realised = _known(forecast_N, realised_N)
    if np.isnan(forecast).any():
        return math.nan
    return information_coefficient(*(pl.Series(side).rank("average").to_numpy() for side in (forecast, realised)))


def directional_accuracy(forecast_N: Array, realised_N: Array) -> float:
    """Share of right calls among the rows with a call.

    Args:
        forecast_N: its sign is the call: an expected return, a logit, or a probability less one half.
        realised_N: outcome; above 0 is up.
    Returns: a fraction; NaN when there is no call.
    """
    return _accuracy(*_right(*_known(forecast_N, realised_N)))


def call_share(forecast_N: Array, realised_N: Array) -> float:
    """Share of rows with a call among the rows with a known outcome; NaN without any."""
    forecast, _ = _known(forecast_N, realised_N)
    return math.nan if not len(forecast) or np.isnan(forecast).any() else float((forecast != 0.0).mean())


def up_share(realised_N: Array) -> float:
    """Share of up moves among the known outcomes: what always calling up would score. NaN without any."""
    known = realised_N[~np.isnan(realised_N)]
    return float((known > 0.0).mean()) if len(known) else math.nan


def _known(forecast_N: Array, realised_N: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if forecast_N.shape != realised_N.shape:
        raise ValueError(f"{forecast_N.shape} forecasts cannot be compared with {realised_N.shape} outcomes.")
    known = ~np.isnan(realised_N)
    return forecast_N[known].astype(np.float64), realised_N[known].astype(np.float64)


def _right(forecast: Array, realised: Array) -> tuple[float, int]:
    """Right calls and calls; the former is NaN when a forecast is."""
    calls = forecast != 0.0
    right = np.where(np.isnan(forecast), np.nan, (forecast > 0.0) == (realised > 0.0))
    return float(right[calls].sum()), int(calls.sum())


def _accuracy(right: float, calls: int) -> float:
    return right / calls if calls else math.nan


@dataclass(slots=True)
class _Moments:
    """Means and centred second moments of pairs (x, y), merged batch by batch.

    Plain sums would lose a forecast that varies little around a large mean. Source: Chan, Golub and LeVeque (1983),
    "Algorithms for Computing the Sample Variance".
    """

    n: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    low_high: list[tuple[float, float]] = field(default_factory=lambda: [(math.inf, -math.inf)] * 2)

    def add(self, x_N: npt.NDArray[np.float64], y_N: npt.NDArray[np.float64]) -> None:
        """Merge a batch."""
        if not len(x_N):
            return
        n, mean_x, mean_y = len(x_N), float(x_N.mean()), float(y_N.mean())
        dx, dy, total = mean_x - self.mean_x, mean_y - self.mean_y, self.n + n
        weight = self.n * n / total
        self.xx += float(((x_N - mean_x) ** 2).sum()) + dx * dx * weight
        self.yy += float(((y_N - mean_y) ** 2).sum()) + dy * dy * weight
        self.xy += float(((x_N - mean_x) * (y_N - mean_y)).sum()) + dx * dy * weight
        self.mean_x += dx * n / total
        self.mean_y += dy * n / total
        self.n = total
        self.low_high = [
            (min(low, float(v.min())), max(high, float(v.max())))
            for (low, high), v in zip(self.low_high, (x_N, y_N), strict=True)
        ]

    def correlation(self) -> float:
        """Pearson's r; NaN when a side is constant, by its exact range and not by a rounded variance."""
        if self.n < 2 or any(low == high for low, high in self.low_high):
            return math.nan
        scale = math.sqrt(self.xx) * math.sqrt(self.yy)
        return self.xy / scale if scale != 0.0 else math.nan


@dataclass(slots=True)
class _Sums:
    """Running sums of one horizon."""

    moments: _Moments = field(default_factory=_Moments)
    squared_error: float = 0.0
    ups: int = 0
    right: float = 0.0
    calls: int = 0
    volatility_error: float = 0.0
    volatilities: int = 0

    def add_returns(
        self, expected: npt.NDArray[np.float64], logit: npt.NDArray[np.float64], realised: npt.NDArray[np.float64]
    ) -> None:
        self.moments.add(expected, realised)
        self.squared_error += float(((expected - realised) ** 2).sum())
        self.ups += int((realised > 0.0).sum())
        right, calls = _right(logit, realised)
        self.right += right
        self.calls += calls

    def add_volatility(self, expected: npt.NDArray[np.float64], realised: npt.NDArray[np.float64]) -> None:
        self.volatility_error += float(((expected - realised) ** 2).sum())
        self.volatilities += len(realised)

    def scores(self) -> dict[str, float]:
        n = self.moments.n
        return {
            "mse_return": self.squared_error / n if n else math.nan,
            "directional_accuracy": _accuracy(self.right, self.calls),
            "up_share": self.ups / n if n else math.nan,
            "ic": self.moments.correlation(),
            "mse_volatility": self.volatility_error / self.volatilities if self.volatilities else math.nan,
            "targets": float(n),
        }
