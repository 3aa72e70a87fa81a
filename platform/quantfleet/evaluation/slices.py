"""The same scores in parts of the period: by year, regime of volatility, crisis and asset. An average hides where it comes from.

Shapes: T bars.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from quantfleet.evaluation.base import EvaluationView
from quantfleet.evaluation.forecast import information_coefficient
from quantfleet.evaluation.metrics import max_drawdown, sharpe, total_return

__all__ = ["CRISES", "SliceScore", "slice_scores"]

CRISES: tuple[tuple[str, dt.date, dt.date], ...] = (
    ("dot-com bust", dt.date(2000, 3, 24), dt.date(2002, 10, 9)),
    ("financial crisis", dt.date(2007, 10, 9), dt.date(2009, 3, 9)),
    ("covid crash", dt.date(2020, 2, 19), dt.date(2020, 3, 23)),
)
"""From the highest close of the S&P 500 before the fall to the lowest one, both days included."""

_REGIMES = ("calm", "normal", "wild")
_VOLATILITY_BARS = 21
_FEWEST_BARS = 10
"""A part with fewer bars has no Sharpe ratio that means anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceScore:
    """One model in one part of the period; NaN where undefined."""

    group: str
    """year, regime, crisis, asset or stress."""
    name: str
    bars: int
    sharpe: float
    total_return: float
    """Of an asset: the sum over bars of what its position earned before costs, as a share of the capital."""
    max_drawdown: float
    ic: float


def slice_scores(view: EvaluationView, *, closes: pl.DataFrame, positions: pl.DataFrame) -> tuple[SliceScore, ...]:
    """Score a model part by part.

    Args:
        closes: timestamp, symbol, close of the period's bars and of those before it. The market is their equally weighted
            return; its volatility over 21 bars, known before the bar, parts bars into thirds: calm, normal and wild.
        positions: `BacktestResult.positions()`.
    Returns: parts with at least one bar, by group, in order of time or name.
    """
    return (*_in_time(view, _market(closes)), *_by_asset(view, closes, positions))


def _market(closes: pl.DataFrame) -> pl.DataFrame:
    """timestamp and the volatility of the market before the bar."""
    moved = closes.sort("symbol", "timestamp").with_columns(
        change=pl.col("close") / pl.col("close").shift(1).over("symbol") - 1.0
    )
    market = moved.group_by("timestamp").agg(pl.col("change").mean()).sort("timestamp")
    return market.select("timestamp", volatility=pl.col("change").rolling_std(_VOLATILITY_BARS).shift(1))


def _in_time(view: EvaluationView, market: pl.DataFrame) -> Iterator[SliceScore]:
    curve = view.curve.join(market, on="timestamp", how="left", maintain_order="left")
    years = curve["timestamp"].dt.year()
    for year in years.unique().sort():
        yield _score(view, "year", str(year), curve.filter(years == year))
    known = curve["volatility"].cast(pl.Float64).fill_null(math.nan).to_numpy()
    if np.isfinite(known).sum() >= 3 * _FEWEST_BARS:
        edges = np.nanquantile(known, [1 / 3, 2 / 3])
        place = np.where(np.isfinite(known), np.searchsorted(edges, known), -1)
        for i, name in enumerate(_REGIMES):
            yield _score(view, "regime", name, curve.filter(pl.Series(place == i)))
    days = curve["timestamp"].dt.date()
    for name, first, last in CRISES:
        own = curve.filter((days >= first) & (days <= last))
        if own.height:
            yield _score(view, "crisis", name, own)


def _score(view: EvaluationView, group: str, name: str, curve: pl.DataFrame) -> SliceScore:
    returns = curve["net_return"].to_numpy()
    answers = view.predictions.join(curve.select("timestamp"), on="timestamp", how="semi")
    return SliceScore(
        group=group,
        name=name,
        bars=curve.height,
        sharpe=sharpe(returns, bars_per_year=view.bars_per_year) if curve.height >= _FEWEST_BARS else math.nan,
        total_return=total_return(returns) if curve.height else math.nan,
        max_drawdown=max_drawdown(returns) if curve.height else math.nan,
        ic=_ic(answers),
    )


def _ic(answers: pl.DataFrame) -> float:
    sides = (
        answers[name].cast(pl.Float64).fill_null(math.nan).to_numpy() for name in ("expected_return", "realised_return")
    )
    return information_coefficient(*sides)


def _by_asset(view: EvaluationView, closes: pl.DataFrame, positions: pl.DataFrame) -> Iterator[SliceScore]:
    held = (
        positions.sort("symbol", "timestamp")
        .join(closes.select("symbol", "timestamp", "close"), on=["symbol", "timestamp"], how="left")
        .with_columns(
            earned=pl.col("weight").shift(1).over("symbol")
            * (pl.col("close") / pl.col("close").forward_fill().shift(1).over("symbol") - 1.0)
        )
        .with_columns(pl.col("earned").fill_null(0.0).fill_nan(0.0))
    )
    for (symbol,), own in held.group_by("symbol", maintain_order=True):
        earned = own["earned"].to_numpy()
        yield SliceScore(
            group="asset",
            name=str(symbol),
            bars=own.height,
            sharpe=sharpe(earned, bars_per_year=view.bars_per_year) if own.height >= _FEWEST_BARS else math.nan,
            total_return=float(earned.sum()),
            max_drawdown=math.nan,
            ic=_ic(view.predictions.filter(pl.col("symbol") == symbol)),
        )
