"""Bars for tests: random walks of one symbol, and bars written down by hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import polars as pl
import pytest

from quantfleet.contracts import Timeframe

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
Volume = Literal["traded", "null", "zero", "patchy"]


def random_bars(
    seed: int = 0,
    rows: int = 300,
    *,
    timeframe: str = "1d",
    symbol: str = "AAA",
    start: dt.datetime = START,
    first_price: float = 100.0,
    volatility: float = 0.02,
    still_share: float = 0.0,
    volume: Volume = "traded",
) -> pl.DataFrame:
    """A random walk with gaps between bars; in `still_share` of them all four prices are the last close."""
    rng = np.random.default_rng(seed)
    moves = rng.random(rows) >= still_share
    gap, body = (rng.normal(0.0, volatility * part, rows) * moves for part in (0.3, 1.0))
    up, down = (np.abs(rng.normal(0.0, volatility / 2, rows)) * moves for _ in range(2))
    close = first_price * np.exp(np.cumsum(gap + body))
    opened = np.concatenate([[first_price], close[:-1]]) * np.exp(gap)
    traded = np.round(rng.lognormal(8.0, 1.0, rows), 2)
    patchy: list[float | None] = [None if bad else v for bad, v in zip(rng.random(rows) < 0.1, traded, strict=True)]
    volumes: dict[str, Sequence[float | None]] = {
        "traded": list(traded),
        "null": [None] * rows,
        "zero": [0.0] * rows,
        "patchy": patchy,
    }
    step = Timeframe(timeframe).delta
    return pl.DataFrame(
        {
            "symbol": [symbol] * rows,
            "timestamp": pl.Series([start + i * step for i in range(rows)], dtype=pl.Datetime("us", "UTC")),
            "open": opened,
            "high": np.maximum(opened, close) * np.exp(up),
            "low": np.minimum(opened, close) * np.exp(-down),
            "close": close,
            "volume": pl.Series(volumes[volume], dtype=pl.Float64),
        }
    )


def written_bars(
    ohlc: Sequence[Sequence[float]],
    *,
    volume: Sequence[float | None] | None = None,
    timeframe: str = "1d",
    symbol: str = "AAA",
    start: dt.datetime = START,
) -> pl.DataFrame:
    """Bars from rows of open, high, low, close; or of one price, which then is all four."""
    rows = [(*r,) if len(r) == 4 else (r[0],) * 4 for r in ohlc]
    step = Timeframe(timeframe).delta
    return pl.DataFrame(
        {
            "symbol": [symbol] * len(rows),
            "timestamp": pl.Series([start + i * step for i in range(len(rows))], dtype=pl.Datetime("us", "UTC")),
            **{name: [float(r[i]) for r in rows] for i, name in enumerate(("open", "high", "low", "close"))},
            "volume": pl.Series(volume if volume is not None else [1.0] * len(rows), dtype=pl.Float64),
        }
    )


@pytest.fixture(scope="session")
def make_bars() -> Callable[..., pl.DataFrame]:
    """`make_bars(seed, rows, ...)`: see `random_bars`."""
    return random_bars


@pytest.fixture(scope="session")
def write_bars() -> Callable[..., pl.DataFrame]:
    """`write_bars([[open, high, low, close], ...])`: see `written_bars`."""
    return written_bars
