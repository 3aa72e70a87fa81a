"""What a position earns: forward returns, and which way they go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from quantfleet.contracts import LabelConfig, Timeframe, register_label
from quantfleet.errors import ConfigError
from quantfleet_data.features.windows import Array, column
from quantfleet_data.labels.future import (
    ahead,
    check_horizons,
    check_volatility_bars,
    known_after,
    label_pair,
    trailing_volatility,
)

__all__ = ["Direction", "Entry", "ForwardReturn", "Measure"]

Entry = Literal["next_open", "close"]
"""Where the return starts. next_open: from open[t+1] to open[t+1+h], what a decision at the close of t can earn; the
last bar read is t+1+h. close: from close[t] to close[t+h], which no order placed at the close of t gets."""

Measure = Literal["simple", "log", "volatility_scaled"]
"""simple: exit / entry - 1, a fraction. log: ln(exit / entry). volatility_scaled: the simple return in usual moves, that is
divided by v * sqrt(h), v being the trailing volatility of one bar, known at t; NaN where nothing moved."""

_NAMES: dict[Measure, str] = {"simple": "return", "log": "log_return", "volatility_scaled": "scaled_return"}


def _last_bar(horizon: int, entry: Entry) -> int:
    return horizon + 1 if entry == "next_open" else horizon


def _growth(bars: pl.DataFrame, horizon: int, entry: Entry) -> Array:
    """Exit price / entry price."""
    if entry == "next_open":
        opened = column(bars, "open")
        return ahead(opened, 1 + horizon) / ahead(opened, 1)
    close = column(bars, "close")
    return ahead(close, horizon) / close


@register_label("forward_return")
@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardReturn(LabelConfig):
    """Return over each horizon: return_1, return_5, ...; log_return_1, ...; or scaled_return_1, ...

    Source of the scaling: Moskowitz, Ooi & Pedersen (2012), Time series momentum, J. Financial Economics 104.
    """

    horizons_bars: tuple[int, ...] = (1, 5, 21)
    entry: Entry = "next_open"
    measure: Measure = "simple"
    volatility_bars: int = 21
    """Log returns up to t whose root mean square is v; read by measure `volatility_scaled` only."""

    def __post_init__(self) -> None:
        check_horizons(self.kind, self.horizons_bars)
        check_volatility_bars(self.kind, self.volatility_bars)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"{_NAMES[self.measure]}_{h}" for h in self.horizons_bars)

    @property
    def horizon_bars(self) -> int:
        return _last_bar(max(self.horizons_bars), self.entry)

    def compute(self, bars: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
        """Return the column of each horizon and its t_end: the close of the last bar read, t+1+h (t+h for entry `close`)."""
        pairs: list[pl.Series] = []
        for name, h in zip(self.columns, self.horizons_bars, strict=True):
            t_end = known_after(bars, _last_bar(h, self.entry), timeframe)
            pairs += label_pair(name, self._measured(bars, h), t_end)
        return pl.DataFrame(pairs)

    def _measured(self, bars: pl.DataFrame, horizon: int) -> Array:
        growth = _growth(bars, horizon, self.entry)
        if self.measure == "log":
            logs: Array = np.log(growth)
            return logs
        if self.measure == "simple":
            return growth - 1.0
        usual = trailing_volatility(bars, self.volatility_bars) * math.sqrt(horizon)
        return (growth - 1.0) / np.where(usual > 0.0, usual, np.nan)


@register_label("direction")
@dataclass(frozen=True, kw_only=True, slots=True)
class Direction(LabelConfig):
    """1.0 where the forward return exceeds a dead band, 0.0 elsewhere: direction_1, direction_5, ...

    With classes=3 also -1.0 where it falls below the band on the other side, and 0.0 within: direction3_1, ...
    """

    horizons_bars: tuple[int, ...] = (1, 5, 21)
    entry: Entry = "next_open"
    classes: Literal[2, 3] = 2
    dead_band_bps: float = 0.0
    """A return must be larger than this to count as up; a round trip's cost makes "up" mean "worth trading"."""
    dead_band_volatilities: float = 0.0
    """The same in usual moves, v * sqrt(h), v being the trailing volatility of one bar, known at t. Give one of the two."""
    volatility_bars: int = 21
    """Log returns up to t whose root mean square is v; read with `dead_band_volatilities` only."""

    def __post_init__(self) -> None:
        check_horizons(self.kind, self.horizons_bars)
        check_volatility_bars(self.kind, self.volatility_bars)
        for name in ("dead_band_bps", "dead_band_volatilities"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ConfigError(f"label direction: {name}={value} must be zero or more.")
        if self.dead_band_bps and self.dead_band_volatilities:
            raise ConfigError(
                f"label direction: dead_band_bps={self.dead_band_bps} and dead_band_volatilities="
                f"{self.dead_band_volatilities} are two dead bands; set one of them to 0."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"{'direction' if self.classes == 2 else 'direction3'}_{h}" for h in self.horizons_bars)

    @property
    def horizon_bars(self) -> int:
        return _last_bar(max(self.horizons_bars), self.entry)

    def compute(self, bars: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
        """Return the column of each horizon and its t_end, that of the forward return it reads."""
        pairs: list[pl.Series] = []
        for name, h in zip(self.columns, self.horizons_bars, strict=True):
            returns, band = _growth(bars, h, self.entry) - 1.0, self._band(bars, h)
            way = (returns > band).astype(np.float64)
            if self.classes == 3:
                way -= returns < -band
            way[np.isnan(returns) | np.isnan(band)] = np.nan
            pairs += label_pair(name, way, known_after(bars, _last_bar(h, self.entry), timeframe))
        return pl.DataFrame(pairs)

    def _band(self, bars: pl.DataFrame, horizon: int) -> Array:
        if not self.dead_band_volatilities:
            return np.full(bars.height, self.dead_band_bps / 1e4)
        return trailing_volatility(bars, self.volatility_bars) * (self.dead_band_volatilities * math.sqrt(horizon))
