"""Looking ahead on purpose: values of later bars, and the time at which they are known.

Shapes: T bars of one symbol. A bar stamped t is known at t + timeframe.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import Timeframe, t_end_column
from quantfleet.errors import ConfigError
from quantfleet_data.features.windows import Array, column, log_change, rolling_rms

__all__ = [
    "ahead",
    "check_horizons",
    "check_volatility_bars",
    "known_after",
    "known_at",
    "label_pair",
    "trailing_volatility",
]


def ahead(x_T: Array, bars: int) -> Array:
    """The value `bars` bars later; NaN where that bar is not there yet."""
    out = np.full(x_T.shape, np.nan)
    out[: max(x_T.size - bars, 0)] = x_T[bars:]
    return out


def known_after(bars: pl.DataFrame, later: int, timeframe: Timeframe) -> pl.Series:
    """When the bar `later` bars ahead is known (UTC): its own timestamp + timeframe; null where it is not there yet.

    Gaps count: after a halt the bar `later` bars ahead lies further away in time.
    """
    return bars["timestamp"].shift(-later) + timeframe.delta


def known_at(bars: pl.DataFrame, last_bar_T: npt.NDArray[np.int64], timeframe: Timeframe) -> pl.Series:
    """When bar number last_bar[t] is known (UTC); null where that number is -1."""
    places = pl.Series(np.where(last_bar_T < 0, 0, last_bar_T))
    closes = bars["timestamp"].gather(places).rename("at") + timeframe.delta
    return closes.to_frame().select(pl.when(pl.Series(last_bar_T >= 0)).then("at")).to_series()


def trailing_volatility(bars: pl.DataFrame, n: int) -> Array:
    """Root mean square of the last n log returns of the close, per bar, known at the close of t; NaN before there are n."""
    return rolling_rms(log_change(column(bars, "close")), n)


def label_pair(name: str, values_T: Array, t_end_T: pl.Series) -> list[pl.Series]:
    """Value column and t_end column, unknown together: NaN and null."""
    unknown = pl.Series(np.isnan(values_T)) | t_end_T.is_null()
    frame = pl.DataFrame({"value": pl.Series(values_T), "t_end": t_end_T, "unknown": unknown}).select(
        pl.when("unknown").then(float("nan")).otherwise("value").alias(name),
        pl.when("unknown").then(None).otherwise("t_end").alias(t_end_column(name)),
    )
    return frame.get_columns()


def check_horizons(kind: str, horizons_bars: tuple[int, ...]) -> None:
    """Raises: ConfigError: no horizons, one shorter than a bar, or one listed twice."""
    if not horizons_bars or min(horizons_bars) < 1 or len(set(horizons_bars)) != len(horizons_bars):
        raise ConfigError(
            f"label {kind}: horizons_bars={list(horizons_bars)} must list one or more different horizons, each of "
            "at least 1 bar."
        )


def check_volatility_bars(kind: str, volatility_bars: int) -> None:
    """Raises: ConfigError: fewer than two returns make no volatility."""
    if volatility_bars < 2:
        raise ConfigError(f"label {kind}: volatility_bars={volatility_bars} must be at least 2.")
