"""The naive models. All that is fitted is the moments of the training segment.

Shapes: B chunks, C targets, H horizons, K = 3 H label columns.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import ChunkBatch, DataSpec, FitContext, FitReport, Forecast, Model, TrainingData
from quantfleet.errors import ConfigError, SchemaError
from quantfleet_models.naive.config import MovingAverageConfig, NaiveConfig

__all__ = ["BuyAndHold", "MovingAverage", "ZeroReturn"]

_FILE = "moments.json"


class _Naive(Model):
    """Answers the training means, and a position."""

    def __init__(self, config: NaiveConfig, spec: DataSpec) -> None:
        self.config: NaiveConfig = config
        self.spec = spec
        self.label_mean_K: npt.NDArray[np.float64] = np.zeros(len(spec.label_columns))

    def fit(self, data: TrainingData, context: FitContext) -> FitReport:
        began = time.perf_counter()
        self.label_mean_K = data.stats.label_mean_K.copy()
        return FitReport(seconds=time.perf_counter() - began)

    def save(self, directory: Path) -> None:
        (directory / _FILE).write_text(json.dumps({"label_mean": self.label_mean_K.tolist()}))

    def load(self, directory: Path) -> None:
        try:
            values = json.loads((directory / _FILE).read_text())["label_mean"]
        except (OSError, ValueError, KeyError) as error:
            raise SchemaError(f"{directory / _FILE} does not hold a {self.config.kind} model: {error}") from error
        if len(values) != len(self.spec.label_columns):
            raise SchemaError(
                f"{directory / _FILE} holds {len(values)} label means, the spec has {len(self.spec.label_columns)}."
            )
        self.label_mean_K = np.asarray(values, dtype=np.float64)

    def _answer(
        self, batch: ChunkBatch, returns_H: npt.NDArray[np.float64], position_BC: npt.NDArray[np.float32]
    ) -> Forecast:
        H = len(self.spec.horizons_bars)
        up_H = np.clip(self.label_mean_K[H : 2 * H], 1e-6, 1 - 1e-6)
        logit_H = np.where(returns_H == 0.0, 0.0, np.log(up_H / (1 - up_H)))

        def everywhere(values_H: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
            return np.broadcast_to(values_H.astype(np.float32), (*batch.mask_BC.shape, H)).copy()

        return Forecast(
            return_BCH=everywhere(returns_H),
            direction_logit_BCH=everywhere(logit_H),
            volatility_BCH=everywhere(self.label_mean_K[2 * H :]),
            position_BC=position_BC,
        )


class ZeroReturn(_Naive):
    """Expects nothing, holds nothing."""

    def predict(self, batch: ChunkBatch) -> Forecast:
        H = len(self.spec.horizons_bars)
        return self._answer(batch, np.zeros(H), np.zeros(batch.mask_BC.shape, np.float32))


class BuyAndHold(_Naive):
    """Always fully invested."""

    def predict(self, batch: ChunkBatch) -> Forecast:
        H = len(self.spec.horizons_bars)
        return self._answer(batch, self.label_mean_K[:H], np.ones(batch.mask_BC.shape, np.float32))


class MovingAverage(_Naive):
    """Follows the trend of two moving averages; reads their ratio from a feature column by name."""

    config: MovingAverageConfig

    def __init__(self, config: MovingAverageConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if config.column not in spec.feature_columns:
            raise ConfigError(
                f"model {config.label!r} reads the feature {config.column!r}, which the feature set does not compute. Add "
                f"{{kind: sma_ratio, fast_bars: {config.fast_bars}, slow_bars: {config.slow_bars}}} to features.extra."
            )
        self._place = spec.feature_columns.index(config.column)

    def predict(self, batch: ChunkBatch) -> Forecast:
        ratio_BC = batch.x_BTF[:, self.spec.lookback_bars - 1 :, self._place]
        below = -1.0 if self.config.short_below else 0.0
        position_BC = np.where(ratio_BC > 0, 1.0, below).astype(np.float32)
        forecast = self._answer(batch, self.label_mean_K[: len(self.spec.horizons_bars)], position_BC)
        sign_BC1 = np.where(ratio_BC > 0, 1.0, -1.0).astype(np.float32)[..., None]
        return Forecast(
            return_BCH=np.abs(forecast.return_BCH) * sign_BC1,
            direction_logit_BCH=np.abs(forecast.direction_logit_BCH) * sign_BC1,
            volatility_BCH=forecast.volatility_BCH,
            position_BC=position_BC,
        )
