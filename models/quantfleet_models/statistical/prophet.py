"""Prophet behind the Model contract: the package fits, its parameters answer without it.

Shapes: N windows, S steps ahead, R training bars, C changepoints. Times are microseconds since 1970, UTC.
"""

from __future__ import annotations

import importlib
import logging
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import DataSpec
from quantfleet.contracts.timeframe import Timeframe
from quantfleet.errors import ConfigError, SchemaError
from quantfleet_models.statistical.config import ProphetConfig
from quantfleet_models.statistical.filters import Array
from quantfleet_models.statistical.model import SeriesModel, Times

__all__ = ["ProphetModel", "next_bars", "seasonal_columns"]

_DAY_US = 86_400_000_000
_SEASONS = {"weekly": (7.0, 3), "yearly": (365.25, 10), "daily": (1.0, 4)}
"""Period in days and order of the Fourier series, the package's own."""


class ProphetModel(SeriesModel):
    """Log price = trend(t) + seasons(t); the return of a step is the difference between two bars."""

    config: ProphetConfig

    def __init__(self, config: ProphetConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self._step_us = Timeframe(spec.timeframe).seconds * 1_000_000
        self._seasons = [name for name in _SEASONS if getattr(config, name)]
        self._at = tuple(f"change{i}" for i in range(config.changepoints))
        self._bends = tuple(f"bend{i}" for i in range(config.changepoints))
        self._waves = {name: tuple(f"{name}{i}" for i in range(2 * _SEASONS[name][1])) for name in self._seasons}
        waves = tuple(wave for waves in self._waves.values() for wave in waves)
        self._weekdays = tuple(f"weekday{i}" for i in range(7))
        self.names = ("slope", "variance", *self._at, *self._bends, *waves, *self._weekdays)

    def _fit_series(self, y_R: Array, time_R: Array) -> dict[str, float]:
        import pandas as pd

        price_R, config = y_R.cumsum(), self.config
        made = _prophet(config.label).Prophet(
            n_changepoints=config.changepoints, changepoint_prior_scale=config.changepoint_scale, uncertainty_samples=0,
            weekly_seasonality=config.weekly, yearly_seasonality=config.yearly, daily_seasonality=config.daily,
        )  # fmt: skip
        made.fit(pd.DataFrame({"ds": pd.to_datetime(time_R.astype(np.int64), unit="us"), "y": price_R}), seed=0)
        unit, span_us = float(made.y_scale), made.t_scale / pd.Timedelta(microseconds=1)
        start_us = (made.start - pd.Timestamp(0)) / pd.Timedelta(microseconds=1)
        found = {name: np.atleast_2d(value)[0] for name, value in made.params.items() if name in ("k", "delta", "beta")}
        changes = np.asarray(made.changepoints_t, np.float64)[: config.changepoints]
        own = dict.fromkeys(self.names, 0.0)
        own["slope"] = float(found["k"][0]) * unit / span_us
        for i, (at, bend) in enumerate(zip(changes, found["delta"], strict=False)):
            own[f"change{i}"], own[f"bend{i}"] = start_us + float(at) * span_us, float(bend) * unit / span_us
        columns = list(made.train_component_cols.index)  # one row a column of waves, in the order of beta
        assert len(columns) == len(found["beta"])
        place = 0
        for name in made.seasonalities:  # the package's order
            for wave in self._waves[name]:
                own[wave] = float(found["beta"][place]) * unit
                place += 1
        seen = np.unique(_weekday(time_R.astype(np.int64)))
        own.update({f"weekday{i}": float(i in seen) for i in range(7)})
        rest_R = np.diff(price_R) - np.diff(
            self._log_price(time_R[None], {k: np.array([v]) for k, v in own.items()})[0]
        )
        own["variance"] = float(rest_R.var())
        return own

    def _log_price(self, time_NS: npt.NDArray[Any], own: dict[str, Array]) -> Array:
        """Trend and seasons, (N, S), but for a constant."""
        out: Array = own["slope"][:, None] * time_NS
        for at, bend in zip(self._at, self._bends, strict=True):
            out = out + own[bend][:, None] * np.maximum(time_NS - own[at][:, None], 0.0)
        for name, waves in self._waves.items():
            columns = seasonal_columns(time_NS, *_SEASONS[name])
            for wave, column_NS in zip(waves, columns, strict=True):
                out = out + own[wave][:, None] * column_NS
        return out

    def _moments(self, y_NL: Array, own: dict[str, Array], steps: int, time_N: Times) -> tuple[Array, Array, Array]:
        if (time_N <= 0).any():
            raise SchemaError(
                f"model {self.config.label!r} answers by the time of a bar, and some windows come without one. Ask it through "
                "`quantfleet predict`, which knows the times; MLflow's windows do not hold them."
            )
        seen_N7 = np.stack([own[name] for name in self._weekdays], 1) > 0
        time_NS = next_bars(time_N, seen_N7, self._step_us, steps)
        mean_NS = np.diff(self._log_price(np.concatenate([time_N[:, None], time_NS], 1), own), axis=1)
        each_NS = np.broadcast_to(own["variance"][:, None], mean_NS.shape)
        return mean_NS, each_NS.cumsum(1), each_NS


def seasonal_columns(time: npt.NDArray[Any], period_days: float, order: int) -> list[Array]:
    """Sines and cosines of one season, as the package orders them."""
    turn = 2.0 * math.pi * np.asarray(time, np.float64) / _DAY_US / period_days
    return [wave((i + 1) * turn) for i in range(order) for wave in (np.sin, np.cos)]


def next_bars(time_N: Times, seen_N7: npt.NDArray[np.bool_], step_us: int, steps: int) -> Times:
    """Times of the next bars, (N, S): a timeframe apart, and never on a weekday without training bars."""
    out = np.empty((len(time_N), steps), np.int64)
    time_N = time_N.copy()
    row_N = np.arange(len(time_N))
    anywhere_N = seen_N7.any(1)
    for s in range(steps):
        time_N = time_N + step_us
        for _ in range(6):
            closed_N = anywhere_N & ~seen_N7[row_N, _weekday(time_N)]
            time_N = np.where(closed_N, time_N + _DAY_US, time_N)
        out[:, s] = time_N
    return out


def _weekday(time_us: Times) -> Times:
    """0 is Monday; 1970 began on a Thursday."""
    return (time_us // _DAY_US + 3) % 7


def _prophet(label: str) -> Any:
    try:
        made = importlib.import_module("prophet")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("prophet"):
            raise
        raise ConfigError(
            f"model {label!r} needs the package prophet: pip install 'quantfleet[prophet]' where the fit runs."
        ) from error
    for name in ("cmdstanpy", "prophet"):  # each fit says when its chains start and end
        logging.getLogger(name).setLevel(logging.WARNING)
    return made
