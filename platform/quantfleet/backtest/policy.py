"""From forecasts to target weights: who is long, who is short, with how much of the capital.

Shapes: T bars, S symbols of the price panel.
Time: a prediction stamped t is known at the close of bar t and becomes row t of the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.backtest.panel import BarPanel
from quantfleet.errors import BacktestError, ConfigError, SchemaError, nearest
from quantfleet.ledger import BPS

__all__ = ["PositionPolicy"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionPolicy:
    """Equal shares of the capital, each long, short or flat by the sign of the forecast.

    Every symbol listed so far has the share 1 / (number of symbols listed so far), used or idle, so weights never sum
    to more than 1. Listed means from its first bar in the panel on: whether it will trade again is not known at t.

    A forecast beyond the threshold decides for a full share, and each decision is held for `horizon_bars` forecasts:
    the position is the mean of the last `horizon_bars` decisions, as if that many overlapping portfolios ran, one
    opened per bar. So the result does not hang on which bar one starts to count from. Source: Jegadeesh and Titman
    1993, J. of Finance 48(1). A row with a `position` (rule models) is taken as it is.
    """

    mode: Literal["long_flat", "long_short"] = "long_flat"
    """Under long_flat every short is flat instead. long_short needs `BacktestConfig.allow_short`."""
    threshold_bps: float = 0.0
    """The expected return over the horizon must lie beyond this, in its direction, to take a position."""
    horizon_bars: int = 1
    """How far the forecast looks, in bars, and so how long a decision is held."""
    rebalance: Literal["on_change", "every_bar"] = "on_change"
    """on_change decides only when a symbol's weight changes, so holding is free; every_bar trades its drift away."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold_bps) and self.threshold_bps >= 0.0):
            raise ConfigError(
                f"policy.threshold_bps={self.threshold_bps} must be at least 0: it is a distance from zero.",
                field="threshold_bps",
            )
        if self.horizon_bars < 1:
            raise ConfigError(
                f"policy.horizon_bars={self.horizon_bars} must be at least 1; use the horizon of the forecast.",
                field="horizon_bars",
            )

    def beyond(self, expected: float) -> bool:
        """Whether an expected return is far enough from zero to take its side."""
        return abs(expected) > self.threshold_bps * BPS

    def target_weights(self, predictions: pl.DataFrame, prices: BarPanel) -> Array:
        """Turn predictions into weights for `run_backtest`.

        Args:
            predictions: columns symbol, timestamp (UTC), expected_return (over the horizon, a fraction) and position
                (in [-1, 1] of the symbol's share; null where the model forecasts rather than decides). One row per
                symbol and time; rows may be missing. NaN or null in both columns decides nothing.
            prices: the panel the weights are for.
        Returns: shape (T, S), NaN where nothing is decided.
        Raises:
            SchemaError: a column is missing.
            BacktestError: a symbol or time that the prices have not got, a pair that occurs twice, a position beyond 1.
        """
        expected_TS, position_TS = _aligned(predictions, prices)
        beyond = np.abs(position_TS) > 1.0
        if beyond.any():
            t, s = np.argwhere(beyond)[0]
            raise BacktestError(
                f"position {position_TS[t, s]} of {prices.symbols[s]} at {prices.time_T[t]} is beyond its whole share; "
                "positions lie in [-1, 1]."
            )
        side_TS = np.sign(expected_TS) * (np.abs(expected_TS) > self.threshold_bps * BPS)
        side_TS = np.where(np.isnan(expected_TS), np.nan, side_TS)
        wanted_TS = np.where(np.isnan(position_TS), side_TS, position_TS)
        if self.mode == "long_flat":
            side_TS, wanted_TS = np.maximum(side_TS, 0.0), np.maximum(wanted_TS, 0.0)
        decides_TS = np.isnan(position_TS) & ~np.isnan(side_TS)
        for s in range(len(prices.symbols)):
            rows = np.flatnonzero(decides_TS[:, s])
            sides = np.concatenate([np.zeros(self.horizon_bars), side_TS[rows, s]]).cumsum()
            wanted_TS[rows, s] = (sides[self.horizon_bars :] - sides[: -self.horizon_bars]) / self.horizon_bars
        weights_TS: Array = wanted_TS / np.maximum(prices.listed().sum(axis=1), 1)[:, None]
        return weights_TS if self.rebalance == "every_bar" else _changes(weights_TS)


def _aligned(predictions: pl.DataFrame, prices: BarPanel) -> tuple[Array, Array]:
    """Lay expected returns and positions on the panel, each shape (T, S), NaN where there is none."""
    for name in ("symbol", "timestamp", "expected_return", "position"):
        if name not in predictions.columns:
            raise SchemaError(f"predictions have no column {name!r}.{nearest(name, predictions.columns)}", column=name)
    keys = predictions.select("symbol", "timestamp")
    doubled = keys.filter(keys.is_duplicated())
    if not doubled.is_empty():
        raise BacktestError(f"two predictions for {doubled['symbol'][0]} at {doubled['timestamp'][0]}; one is wrong.")
    place = {name: s for s, name in enumerate(prices.symbols)}
    foreign = keys.filter(~pl.col("symbol").is_in(list(place)))
    if not foreign.is_empty():
        raise BacktestError(
            f"predictions for {foreign['symbol'][0]}, but there are prices for {', '.join(prices.symbols)} only."
        )
    time_N = keys["timestamp"].dt.convert_time_zone("UTC").dt.replace_time_zone(None).dt.cast_time_unit("us").to_numpy()
    row_N = np.minimum(np.searchsorted(prices.time_T, time_N), len(prices.time_T) - 1)
    strange = prices.time_T[row_N] != time_N
    if strange.any():
        raise BacktestError(
            f"{int(strange.sum())} predictions have no bar at their time, first {time_N[strange][0]}; the prices run "
            f"from {prices.time_T[0]} to {prices.time_T[-1]}. Predictions and prices must be of the same bars."
        )
    column_N = keys["symbol"].replace_strict(place, return_dtype=pl.Int64).to_numpy()
    laid = np.full((2, *prices.close_TS.shape), np.nan)
    for k, name in enumerate(("expected_return", "position")):
        laid[k, row_N, column_N] = predictions[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return laid[0], laid[1]


def _changes(weights_TS: Array) -> Array:
    """Keep a symbol's weight only where it differs from the one decided before; NaN elsewhere."""
    changed_TS = np.full_like(weights_TS, np.nan)
    for s in range(weights_TS.shape[1]):
        rows = np.flatnonzero(~np.isnan(weights_TS[:, s]))
        decided = weights_TS[rows, s]
        news = np.diff(decided, prepend=np.nan) != 0.0
        changed_TS[rows[news], s] = decided[news]
    return changed_TS
