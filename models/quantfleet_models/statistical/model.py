"""Classical models behind the Model contract. They are fitted in the driver's process, symbol by symbol, and stored as JSON.

Shapes: B chunks, C targets, L look-back bars, H horizons, S steps to the longest horizon, N = B x C windows.
"""

from __future__ import annotations

import importlib
import json
import math
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from quantfleet.contracts import ChunkBatch, DataSpec, FitContext, FitReport, Forecast, Model, TrainingData
from quantfleet.errors import ConfigError, SchemaError, nearest
from quantfleet_models.statistical.config import ARIMAConfig, ETSConfig, GARCHConfig, SeriesConfig
from quantfleet_models.statistical.filters import Array, arma_forecast, garch_forecast, smoothed_level

__all__ = ["ARIMAModel", "ETSModel", "GARCHModel", "SeriesModel", "Times"]

Times = npt.NDArray[np.int64]

_FILE = "parameters.json"
_LEAST_VARIANCE = 1e-12


class SeriesModel(Model):
    """Parameters per symbol; a family says how they are fitted and what they make of a window."""

    names: tuple[str, ...] = ()
    """Of the parameters; families with orders name the most there can be."""

    def __init__(self, config: SeriesConfig, spec: DataSpec) -> None:
        self.config: SeriesConfig = config
        self.spec = spec
        column = config.return_feature
        if column not in spec.feature_columns:
            raise ConfigError(
                f"model {config.label!r} reads the feature {column!r}, which the feature set does not compute."
                f"{nearest(column, spec.feature_columns)} Add {{kind: log_return, bars: 1}} to features.extra, or set "
                "return_feature."
            )
        self._place = spec.feature_columns.index(column)
        self.parameters: dict[str, Array] | None = None
        """One value per symbol, in the order of the spec's symbols; None until fitted or loaded."""

    @abstractmethod
    def _fit_series(self, y_R: Array, time_R: Array) -> dict[str, float]:
        """Parameters of one symbol's returns in order of time (microseconds since 1970, UTC)."""

    @abstractmethod
    def _moments(self, y_NL: Array, own: dict[str, Array], steps: int, time_N: Times) -> tuple[Array, Array, Array]:
        """After decision bars of these times: expected return of each step, variance of the sum of returns up to each step, and
        variance of each step, (N, S) each."""

    @property
    def per_symbol(self) -> bool:
        return True

    def fit(self, data: TrainingData, context: FitContext) -> FitReport:
        began = time.perf_counter()
        if data.spec != self.spec:
            raise SchemaError(f"model {self.config.label!r} was built for other data than it is to be fitted on.")
        series = self._series(data)
        fitted = {
            i: self._fit_series(y_R, time_R)
            for i, (time_R, y_R) in enumerate(series)
            if len(y_R) >= self.config.least_rows
        }
        if not fitted:
            raise ConfigError(
                f"model {self.config.label!r}: no symbol has {self.config.least_rows} training returns; the longest series has "
                f"{max(len(y_R) for _, y_R in series)}. Widen the training segment, or lower least_rows."
            )
        mean = {name: float(np.mean([own[name] for own in fitted.values()])) for name in self.names}
        rows = [fitted.get(i, mean) for i in range(len(series))]
        self.parameters = {name: np.array([row[name] for row in rows]) for name in self.names}
        return FitReport(seconds=time.perf_counter() - began, parameters=len(self.names) * len(fitted))

    def _series(self, data: TrainingData) -> list[tuple[Array, Array]]:
        """Times and values of each symbol's counted training returns, in order of time, each bar once."""
        found: list[list[npt.NDArray[Any]]] = [[] for _ in self.spec.symbols]
        for batch in data.read("train"):
            own_BC = batch.x_BTF[:, self.spec.lookback_bars - 1 :, self._place]
            for i, symbol in enumerate(batch.symbol_id_B):
                counted = batch.mask_BC[i] & np.isfinite(own_BC[i])
                found[symbol].append(np.stack([batch.time_BC[i][counted], own_BC[i][counted].astype(np.float64)]))
        series = []
        for parts in found:
            joined = np.concatenate(parts, axis=1) if parts else np.zeros((2, 0))
            _, first = np.unique(joined[0], return_index=True)
            series.append((joined[0][first], joined[1][first]))
        return series

    def predict(self, batch: ChunkBatch) -> Forecast:
        spec = self.spec
        if self.parameters is None:
            raise SchemaError(f"model {self.config.label!r} is empty: fit or load it before it is asked.")
        if batch.x_BTF.shape[1:] != (spec.chunk_rows, spec.features):
            raise SchemaError(
                f"model {self.config.label!r} reads chunks of {spec.chunk_rows} rows x {spec.features} features, got "
                f"{batch.x_BTF.shape[1]} x {batch.x_BTF.shape[2]}."
            )
        returns_BT = np.nan_to_num(batch.x_BTF[..., self._place].astype(np.float64))  # masked windows only
        y_NL = sliding_window_view(returns_BT, spec.lookback_bars, axis=1).reshape(-1, spec.lookback_bars)
        symbol_N = np.repeat(batch.symbol_id_B, spec.chunk_bars)
        own = {name: values[symbol_N] for name, values in self.parameters.items()}
        step_H = np.array(spec.horizons_bars) - 1
        mean_NS, total_NS, each_NS = self._moments(y_NL, own, max(spec.horizons_bars), batch.time_BC.reshape(-1))
        return_NH = mean_NS.cumsum(1)[:, step_H]
        score_NH = return_NH / np.sqrt(np.maximum(total_NS[:, step_H], _LEAST_VARIANCE))
        up_NH = np.clip(0.5 * (1 + _erf(score_NH / math.sqrt(2))), 1e-6, 1 - 1e-6)
        volatility_NH = np.sqrt(each_NS.cumsum(1) / np.arange(1, each_NS.shape[1] + 1))[:, step_H]
        shape = (*batch.mask_BC.shape, len(step_H))
        return Forecast(
            return_BCH=return_NH.reshape(shape).astype(np.float32),
            direction_logit_BCH=np.log(up_NH / (1 - up_NH)).reshape(shape).astype(np.float32),
            volatility_BCH=volatility_NH.reshape(shape).astype(np.float32),
        )

    def save(self, directory: Path) -> None:
        if self.parameters is None:
            raise SchemaError(f"model {self.config.label!r} is empty: fit it before it is saved.")
        record = {"symbols": self.spec.symbols, "parameters": {k: v.tolist() for k, v in self.parameters.items()}}
        (directory / _FILE).write_text(json.dumps(record))

    def load(self, directory: Path) -> None:
        path = directory / _FILE
        try:
            record = json.loads(path.read_text())
            symbols = tuple(record["symbols"])
            parameters = {name: np.asarray(record["parameters"][name], np.float64) for name in self.names}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SchemaError(f"{path} does not hold the parameters of {self.config.kind}: {error}") from error
        if symbols != self.spec.symbols:
            raise SchemaError(f"{path} holds {len(symbols)} symbols, which are not those of the data.")
        if any(v.shape != (len(symbols),) or not np.isfinite(v).all() for v in parameters.values()):
            raise SchemaError(
                f"{path} holds parameters that are no finite number for each symbol. Fit the model again."
            )
        self.parameters = parameters


class ARIMAModel(SeriesModel):
    """ARMA: the mean of what comes depends on the last returns and shocks."""

    config: ARIMAConfig

    def __init__(self, config: ARIMAConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self._ar = tuple(f"ar{i}" for i in range(1, config.most_ar + 1))
        self._ma = tuple(f"ma{i}" for i in range(1, config.most_ma + 1))
        self.names = ("mean", "variance", *self._ar, *self._ma)

    def _fit_series(self, y_R: Array, time_R: Array) -> dict[str, float]:
        models = _statsforecast(self.config.label)
        chosen = models.AutoARIMA(
            d=0, D=0, seasonal=False, max_p=self.config.most_ar, max_q=self.config.most_ma,
            start_p=min(1, self.config.most_ar), start_q=min(1, self.config.most_ma), max_order=20,
        ).fit(y_R)  # fmt: skip
        found = chosen.model_["coef"]
        own = {name: float(found.get(name, 0.0)) for name in (*self._ar, *self._ma)}
        return {"mean": float(found.get("intercept", 0.0)), "variance": float(chosen.model_["sigma2"]), **own}

    def _moments(self, y_NL: Array, own: dict[str, Array], steps: int, time_N: Times) -> tuple[Array, Array, Array]:
        ar_NP, ma_NQ = (
            np.stack([own[name] for name in names], axis=1) if names else np.zeros((len(y_NL), 0))
            for names in (self._ar, self._ma)
        )
        mean_NS, psi_NS = arma_forecast(y_NL, own["mean"], ar_NP, ma_NQ, steps)
        shock_N1 = own["variance"][:, None]
        # the shock of step s reaches the sum up to step k through psi_0 + .. + psi_(k-s)
        return mean_NS, shock_N1 * (psi_NS.cumsum(1) ** 2).cumsum(1), np.broadcast_to(shock_N1, mean_NS.shape)


class ETSModel(SeriesModel):
    """Exponential smoothing: the next returns are the level that the last ones have drawn near."""

    config: ETSConfig
    names = ("alpha", "start", "variance")

    def _fit_series(self, y_R: Array, time_R: Array) -> dict[str, float]:
        fitted = _statsforecast(self.config.label).AutoETS(model="ANN").fit(y_R).model_
        return {"alpha": float(fitted["par"][0]), "start": float(y_R.mean()), "variance": float(fitted["sigma2"])}

    def _moments(self, y_NL: Array, own: dict[str, Array], steps: int, time_N: Times) -> tuple[Array, Array, Array]:
        level_N = smoothed_level(y_NL, own["start"], own["alpha"])
        each_NS = np.broadcast_to(own["variance"][:, None], (len(y_NL), steps))
        # a shock moves the level for all steps after it by alpha
        reach_S = 1 + np.arange(steps) * own["alpha"][:, None]
        return np.broadcast_to(level_N[:, None], each_NS.shape), each_NS[:, :1] * (reach_S**2).cumsum(1), each_NS


class GARCHModel(SeriesModel):
    """GARCH(1, 1): a constant mean, and a variance that follows the last squares."""

    config: GARCHConfig
    names = ("mean", "omega", "alpha", "beta", "start")

    def _fit_series(self, y_R: Array, time_R: Array) -> dict[str, float]:
        from arch import arch_model

        scale = 1.0 / max(float(y_R.std()), 1e-12)  # its optimiser wants numbers near 1
        found = arch_model(y_R * scale, mean="Constant", vol="GARCH", p=1, q=1, rescale=False).fit(disp="off").params
        alpha, beta, omega = float(found["alpha[1]"]), float(found["beta[1]"]), float(found["omega"]) / scale**2
        left = 1 - alpha - beta
        start = omega / left if left > 1e-3 else float(y_R.var())
        return {"mean": float(found["mu"]) / scale, "omega": omega, "alpha": alpha, "beta": beta, "start": start}

    def _moments(self, y_NL: Array, own: dict[str, Array], steps: int, time_N: Times) -> tuple[Array, Array, Array]:
        each_NS = garch_forecast(
            y_NL, own["mean"], own["omega"], own["alpha"], own["beta"], steps, start_N=own["start"]
        )
        return np.broadcast_to(own["mean"][:, None], each_NS.shape), each_NS.cumsum(1), each_NS


def _erf(x: Array) -> Array:
    from scipy.special import erf

    out: Array = erf(x)
    return out


def _statsforecast(label: str) -> Any:
    try:
        return importlib.import_module("statsforecast.models")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("statsforecast"):
            raise
        raise ConfigError(
            f"model {label!r} needs the package statsforecast: pip install 'quantfleet[statistical]' where the fit runs."
        ) from error
