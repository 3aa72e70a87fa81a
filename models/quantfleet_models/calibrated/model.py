"""A model, and what its validation errors say of it.

Shapes: B chunks, C targets, R rows of the validation segment, H horizons, Q levels.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.calibration import ConformalQuantiles, IsotonicCalibration, TemperatureCalibration
from quantfleet.contracts import ChunkBatch, DataSpec, FitContext, FitReport, Forecast, Model, TrainingData
from quantfleet.errors import SchemaError
from quantfleet_models.calibrated.config import CalibratedConfig
from quantfleet_models.parts.members import load_member, member_context, save_member

__all__ = ["CalibratedModel"]

_FILE = "calibration.json"
_PREFIX = "model"
_LEAST_SPREAD = 1e-9
_KINDS: dict[str, type[TemperatureCalibration] | type[IsotonicCalibration]] = {
    "temperature": TemperatureCalibration,
    "isotonic": IsotonicCalibration,
}

Array = npt.NDArray[np.float64]


class CalibratedModel(Model):
    """Answers what the model inside does, corrected horizon by horizon."""

    def __init__(self, config: CalibratedConfig, spec: DataSpec) -> None:
        self.config: CalibratedConfig = config
        self.spec = spec
        self.model = config.model.build(spec)
        self.directions_H: list[Any] = []
        self.quantiles_H: list[ConformalQuantiles] = []
        self._ready = False

    @property
    def per_symbol(self) -> bool:
        return self.model.per_symbol

    def fit(self, data: TrainingData, context: FitContext) -> FitReport:
        began = time.perf_counter()
        report = self.model.fit(data, member_context(context, self.config.model.label))
        parts: list[list[Array]] = []
        for batch in data.read("validation"):
            forecast, at = self.model.predict(batch), batch.mask_BC
            spread = self._spread(forecast)
            parts.append(
                [
                    a[at].astype(np.float64)
                    for a in (forecast.return_BCH, forecast.direction_logit_BCH, spread, batch.y_BCK)
                ]
            )
        returns_RH, logit_RH, spread_RH, y_RK = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        H = len(self.spec.horizons_bars)
        self.directions_H, self.quantiles_H = [], []
        for h in range(H):
            known = np.isfinite(y_RK[:, H + h])
            if self.config.directions != "none":
                self.directions_H.append(_KINDS[self.config.directions].fit(logit_RH[known, h], y_RK[known, H + h]))
            known = np.isfinite(y_RK[:, h])
            if self.config.quantiles:
                self.quantiles_H.append(
                    ConformalQuantiles.fit(
                        returns_RH[known, h], y_RK[known, h], spread_RH[known, h], self.config.quantiles
                    )
                )
        self._ready = True
        return replace(report, seconds=time.perf_counter() - began)

    def predict(self, batch: ChunkBatch) -> Forecast:
        if not self._ready:
            raise SchemaError(f"model {self.config.label!r} is empty: fit or load it before it is asked.")
        forecast = self.model.predict(batch)
        if self.directions_H:
            logit = [own.apply(forecast.direction_logit_BCH[..., h]) for h, own in enumerate(self.directions_H)]
            forecast = replace(forecast, direction_logit_BCH=np.stack(logit, axis=-1).astype(np.float32))
        if self.quantiles_H:
            spread = self._spread(forecast)
            quantiles = [
                own.apply(forecast.return_BCH[..., h], spread[..., h]) for h, own in enumerate(self.quantiles_H)
            ]
            made = np.maximum.accumulate(np.stack(quantiles, axis=2).astype(np.float32), axis=-1)
            forecast = replace(forecast, quantile_BCHQ=made, quantile_levels=self.config.quantiles)
        return forecast

    def _spread(self, forecast: Forecast) -> npt.NDArray[np.floating]:
        if self.config.spread == "constant":
            return np.ones_like(forecast.volatility_BCH)
        root_H = np.sqrt(np.array(self.spec.horizons_bars, np.float32))
        return np.maximum(np.nan_to_num(forecast.volatility_BCH) * root_H, _LEAST_SPREAD)

    def save(self, directory: Path) -> None:
        if not self._ready:
            raise SchemaError(f"model {self.config.label!r} is empty: fit it before it is saved.")
        save_member(self.model, directory, _PREFIX)
        record = {name: [own.to_dict() for own in getattr(self, f"{name}_H")] for name in ("directions", "quantiles")}
        (directory / _FILE).write_text(json.dumps(record))

    def load(self, directory: Path) -> None:
        path, H = directory / _FILE, len(self.spec.horizons_bars)
        try:
            record = json.loads(path.read_text())
            stored = {name: list(record[name]) for name in ("directions", "quantiles")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SchemaError(f"{path} does not hold a calibration: {error}. Fit the model again.") from error
        kind = self.config.directions
        wanted = {"directions": H if kind != "none" else 0, "quantiles": H if self.config.quantiles else 0}
        for name, count in wanted.items():
            if len(stored[name]) != count:
                raise SchemaError(f"{path} holds {len(stored[name])} {name}, the config asks for {count}.")
        directions = [_KINDS[kind].from_dict(one) for one in stored["directions"]]
        quantiles = [ConformalQuantiles.from_dict(one) for one in stored["quantiles"]]
        if any(own.levels != self.config.quantiles for own in quantiles):
            raise SchemaError(f"{path} holds quantiles of other levels than the config.")
        load_member(self.model, directory, _PREFIX)
        self.directions_H, self.quantiles_H, self._ready = directions, quantiles, True
