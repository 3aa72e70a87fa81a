"""Scaling by the recent past: each row against the mean and deviation of its own last bars. Causal, nothing is fitted.

Shapes: T rows, F features, B chunks, W bars of the window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from quantfleet.compiled import read_only
from quantfleet.contracts import Scaler, ScalerConfig, TrainingData, register_scaler
from quantfleet.errors import ConfigError

__all__ = ["RollingScaler", "RollingScalerConfig"]


class RollingScaler(Scaler):
    """(x - mean) / deviation over the last `window_bars` rows, the row itself included; 0 where they are all equal.

    Every window is added up by itself in float64, oldest row first, so a row's result has the same bits wherever the rows begin:
    in a whole history, in a chunk, in one window with its halo. A NaN makes the windows that hold it NaN.
    """

    def __init__(self, *, feature_columns: tuple[str, ...], window_bars: int, clip: float | None) -> None:
        self.kind = RollingScalerConfig.kind
        self.feature_columns = feature_columns
        self.window_bars = window_bars
        self.clip = clip

    @property
    def lookback_bars(self) -> int:
        return self.window_bars

    def _scaled(self, x_BTF: npt.NDArray[np.float32], symbol_id_B: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        out_BTF = np.full(x_BTF.shape, np.nan, np.float32)
        for x_TF, out_TF in zip(x_BTF, out_BTF, strict=True):
            _roll(read_only(x_TF), self.window_bars, math.inf if self.clip is None else self.clip, out_TF)
        return out_BTF

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "feature_columns": list(self.feature_columns),
            "window_bars": self.window_bars,
            "clip": self.clip,
        }


@register_scaler("rolling")
@dataclass(frozen=True, kw_only=True, slots=True)
class RollingScalerConfig(ScalerConfig):
    """Each symbol against its own last `window_bars` bars; follows drifts in level and spread, and forgets them.

    The first `window_bars - 1` rows of every window of the data give the others their past and are not seen by the network: with
    windows of L bars it sees L - window_bars + 1.
    """

    window_bars: int = 252
    clip: float | None = 10.0
    """Scaled values end here; None: they do not. (Of W rows none is further than sqrt(W - 1) from their mean.)"""

    def __post_init__(self) -> None:
        if self.window_bars < 2:
            raise ConfigError(f"scaler rolling: window_bars={self.window_bars} must be at least 2.")
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise ConfigError(f"scaler rolling: clip={self.clip} must be positive, or null for none.")

    @property
    def lookback_bars(self) -> int:
        return self.window_bars

    def fit(self, data: TrainingData) -> Scaler:
        """Take the names of the features; no row is read."""
        return RollingScaler(feature_columns=data.spec.feature_columns, window_bars=self.window_bars, clip=self.clip)

    @classmethod
    def restore(cls, record: Mapping[str, Any]) -> Scaler:
        return RollingScaler(
            feature_columns=tuple(record["feature_columns"]),
            window_bars=int(record["window_bars"]),
            clip=record["clip"],
        )


@njit(cache=True, nogil=True)
def _roll(x_TF: npt.NDArray[np.float32], W: int, clip: float, out_TF: npt.NDArray[np.float32]) -> None:
    T, F = x_TF.shape
    mean_F, squares_F = np.empty(F), np.empty(F)
    for t in range(W - 1, T):
        newest_F = x_TF[t]
        mean_F[:] = 0.0
        squares_F[:] = 0.0
        for k in range(t - W + 1, t + 1):  # distances from the newest: equal rows give exact zeros
            for f in range(F):
                mean_F[f] += np.float64(x_TF[k, f]) - np.float64(newest_F[f])
        for f in range(F):
            mean_F[f] /= W
        for k in range(t - W + 1, t + 1):
            for f in range(F):
                deviation = (np.float64(x_TF[k, f]) - np.float64(newest_F[f])) - mean_F[f]
                squares_F[f] += deviation * deviation
        for f in range(F):
            if squares_F[f] == 0.0:
                out_TF[t, f] = 0.0
            else:
                score = -mean_F[f] / np.sqrt(squares_F[f] / W)
                out_TF[t, f] = score if np.isnan(score) else min(max(score, -clip), clip)
