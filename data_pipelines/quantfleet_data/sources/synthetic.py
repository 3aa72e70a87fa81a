"""A made-up market for load tests: any number of symbols, minute by minute, shaped like the real thing and never taken for it.

Nothing learnt from it says anything about a real market. Its rows carry source "synthetic".
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from quantfleet.contracts import FetchRequest, Source, SourceConfig, register_source
from quantfleet.errors import ConfigError
from quantfleet_data.sources.clock import closed_bars

__all__ = ["SyntheticConfig"]

Array = npt.NDArray[np.float64]

_DAY_S = 86_400
_LOG_VOLATILITY_PERSISTENCE = 0.97  # a day's shock to volatility has a half-life of three weeks
_LOG_VOLATILITY_SHOCK = 0.15
_TAIL_DEGREES = 4.0  # minute returns are Student's t: their fourth moment barely exists
_JUMPS_PER_DAY = 0.02
_MARKET_SHARE = 0.5  # of a symbol's variance is the market's


@register_source("synthetic")
@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig(SourceConfig):
    """A made-up market for load tests: common factor, fat tails, volatility clusters, jumps, outages, listings, delistings.

    A bar is a function of the seed, its symbol and the time: more symbols or later days change none (only who is listed
    late depends on the number of days).
    """

    symbols: Annotated[int, Field(ge=1, le=99_999)] = 10
    """How many: S00000, S00001, ..."""
    start_utc: dt.datetime = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    days: Annotated[int, Field(ge=1)] = 30
    """Whole days, the market never closes."""
    seed: int = 0
    daily_volatility: Annotated[float, Field(gt=0, lt=1)] = 0.03
    """Standard deviation of a symbol's daily log return, as a fraction."""
    missing_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.001
    """Share of bars lost in outages of the exchange, at the same times for all symbols, and as single gaps."""
    listed_late_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of symbols that begin within the first half of the days; as many end within the second half."""

    def __post_init__(self) -> None:
        if self.start_utc.tzinfo is None or self.start_utc.astimezone(dt.UTC).time() != dt.time():
            raise ConfigError(f"start_utc={self.start_utc} must be a midnight in UTC, such as 2024-01-01T00:00:00Z.")

    def build(self) -> Source:
        return _Synthetic(self)


class _Synthetic(Source):
    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config

    def fetch(self, request: FetchRequest) -> Iterator[pl.DataFrame]:
        """Yield one symbol after another, whole: memory is bounded by one symbol's bars.

        Raises: ConfigError: bars of the timeframe do not fill a day.
        """
        step_s = request.timeframe.seconds
        if step_s > _DAY_S or _DAY_S % step_s:
            raise ConfigError(
                f"source 'synthetic' makes bars that fill a day; a timeframe of {request.timeframe} does not."
            )
        market = _Market(self.config, _DAY_S // step_s)
        for number in range(self.config.symbols):
            bars = closed_bars(market.symbol(number, step_s), request.timeframe, request.now_utc)
            if not bars.is_empty():
                yield bars


class _Market:
    """What all symbols share: the factor's returns, volatility and outages, day by day. Shapes: D days, M bars a day."""

    def __init__(self, config: SyntheticConfig, bars_a_day: int) -> None:
        self.config = config
        self.M = bars_a_day
        self.factor_DM = _returns(config.seed, "market", config.days, bars_a_day)
        self.volatility_D = _volatility(config.seed, "market", config.days)
        # activity is high where a trading session opens and closes, low at night
        hour_M = np.arange(bars_a_day) * 24.0 / bars_a_day
        wave_M = 1.0 + 0.6 * np.cos((hour_M - 14.0) * 2 * np.pi / 24) + 0.2 * np.cos((hour_M - 8.0) * 4 * np.pi / 24)
        self.activity_M = wave_M / math.sqrt(float(np.mean(wave_M**2)))
        self.closed_DM = np.zeros((config.days, bars_a_day), np.bool_)
        for day in range(config.days):
            draws = _rng(config.seed, "outage", day)
            hours = 3.0
            if (
                draws.random() < config.missing_share * 24 / hours / 2
            ):  # half of what is missing is missing for everybody
                first = int(draws.integers(0, bars_a_day))
                self.closed_DM[day, first : first + max(1, round(bars_a_day * hours / 24))] = True

    def symbol(self, number: int, step_s: int) -> pl.DataFrame:
        config, M = self.config, self.M
        name = f"S{number:05d}"
        draws = _rng(config.seed, name, -1)
        beta = float(draws.uniform(0.6, 1.4))
        price, turnover = float(draws.lognormal(3.0, 1.5)), float(draws.lognormal(10.0, 1.5))
        first, last = self._listed(draws)
        own_DM = _returns(config.seed, name, config.days, M)
        volatility_D = np.sqrt(self.volatility_D * _volatility(config.seed, name, config.days))
        scale_DM = config.daily_volatility / math.sqrt(M) * volatility_D[:, None] * self.activity_M
        mixed_DM = beta * math.sqrt(_MARKET_SHARE) * self.factor_DM + math.sqrt(1 - _MARKET_SHARE) * own_DM
        close = price * np.exp(np.cumsum((scale_DM * mixed_DM).ravel()))
        days = [_rng(config.seed, f"noise {name}", day) for day in range(config.days)]
        gap, up, down, trade = np.stack([one.standard_normal((4, M)) for one in days], axis=1).reshape(4, -1)
        idle, lost = np.stack([one.random((2, M)) for one in days], axis=1).reshape(2, -1)
        opened = np.concatenate([[price], close[:-1]]) * np.exp(0.1 * scale_DM.ravel() * gap)
        reach = 0.5 * scale_DM.ravel()
        high = np.maximum(opened, close) * np.exp(reach * np.abs(up))
        low = np.minimum(opened, close) * np.exp(-reach * np.abs(down))
        heat = 1.0 + np.abs(mixed_DM.ravel())
        volume = turnover / M / close * np.tile(self.activity_M**2, config.days) * heat * np.exp(0.8 * trade)
        volume[idle < 0.002] = 0.0
        kept = ~self.closed_DM.ravel() & (lost >= config.missing_share / 2)
        T = close.size
        day = np.arange(T) // M
        kept &= (day >= first) & (day < last)
        start_us = int(config.start_utc.timestamp() * 1_000_000)
        stamp = start_us + np.flatnonzero(kept) * step_s * 1_000_000
        values = {"open": opened, "high": high, "low": low, "close": close, "volume": volume}
        return pl.DataFrame(
            {
                "symbol": pl.repeat(name, int(kept.sum()), eager=True),
                "timestamp": pl.Series(stamp, dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
                **{column: numbers[kept] for column, numbers in values.items()},
            }
        )

    def _listed(self, draws: np.random.Generator) -> tuple[int, int]:
        """First day, and the day after the last."""
        days, share = self.config.days, self.config.listed_late_share
        late, early = draws.random() < share, draws.random() < share
        where = draws.random(2)
        first = int(where[0] * days / 2) if late else 0
        return first, days - int(where[1] * (days - 1 - days // 2)) if early else days


def _rng(seed: int, what: str, day: int) -> np.random.Generator:
    return np.random.default_rng([seed, day + 10, *what.encode()])


def _returns(seed: int, what: str, days: int, bars_a_day: int) -> Array:
    """Shape (D, M): heavy-tailed returns of unit variance, some days with a jump; a day depends on no other."""
    made = np.empty((days, bars_a_day))
    for day in range(days):
        draws = _rng(seed, what, day)
        made[day] = draws.standard_t(_TAIL_DEGREES, bars_a_day) / math.sqrt(_TAIL_DEGREES / (_TAIL_DEGREES - 2))
        if draws.random() < _JUMPS_PER_DAY:
            made[day, draws.integers(0, bars_a_day)] += draws.normal(0.0, 2.0) * math.sqrt(bars_a_day)
    return made


def _volatility(seed: int, what: str, days: int) -> Array:
    """Shape (D,): a positive factor around 1, persistent from day to day (its logarithm is autoregressive)."""
    level, made = 0.0, np.empty(days)
    for day in range(days):
        shock = _rng(seed, f"volatility {what}", day).standard_normal()
        level = _LOG_VOLATILITY_PERSISTENCE * level + _LOG_VOLATILITY_SHOCK * shock
        made[day] = math.exp(level)
    return made
