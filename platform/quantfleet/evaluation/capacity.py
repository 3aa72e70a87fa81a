"""Capacity: how much capital a strategy bears before its own trading eats what it earns.

Model. Trading a share p of a bar's volume moves the price by Y sigma sqrt(p), with sigma the bar's volatility and Y about 1. A
strategy with capital A that trades the share w of it in a symbol pays w Y sigma sqrt(w A / V) of its capital, V being the
bar's volume in money. Summed over symbols and bars that is k sqrt(A) per bar, against a return of g before impact: all
capacities follow from g and k in closed form.

Source: the square root, Torre and Ferrari (1998), "BARRA Market Impact Model Handbook", and Tóth et al. (2011),
Phys. Rev. X 1, 021006.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

from quantfleet.errors import SchemaError, nearest

__all__ = ["Capacity", "capacity", "impact_per_root_capital"]

_TRADES = ("timestamp", "symbol", "notional")
_BARS = ("timestamp", "symbol", "close", "volume")
_VOLATILITY_BARS = 20


@dataclass(frozen=True, slots=True)
class Capacity:
    """In the money of the prices; NaN where volumes are not known or nothing was traded, 0 where nothing is earned."""

    break_even: float
    """Capital at which impact eats the whole return: (g / k) squared."""
    half: float
    """Capital at which it eats half of it: a quarter of `break_even`."""
    most_profit: float
    """Capital at which the money earned is most: 4/9 of `break_even`."""


def capacity(return_per_bar: float, impact_per_bar: float) -> Capacity:
    """Capacities of a strategy.

    Args:
        return_per_bar: g, mean return per bar before impact, after all other costs; a fraction.
        impact_per_bar: k of `impact_per_root_capital`.
    """
    if math.isnan(return_per_bar) or math.isnan(impact_per_bar) or impact_per_bar <= 0.0:
        return Capacity(math.nan, math.nan, math.nan)
    most = (max(return_per_bar, 0.0) / impact_per_bar) ** 2
    return Capacity(most, most / 4.0, most * 4.0 / 9.0)


def impact_per_root_capital(
    trades: pl.DataFrame, bars: pl.DataFrame, *, capital: float, bars_traded: int, impact_y: float = 1.0
) -> float:
    """k: what impact costs per bar, as a fraction of the capital, over the square root of the capital.

    Volume and volatility are those known at the close before the trade: mean money volume and standard deviation of the
    returns of the last 20 bars.

    Args:
        trades: timestamp of the bar, symbol and notional (positive) of every fill, made with about `capital`.
        bars: timestamp, symbol, close and volume (units; null where the market has none) of the traded period and of the
            bars before it.
        capital: money the strategy traded with.
        bars_traded: bars of the period, with and without trades.
        impact_y: Y; about 1 in most markets.
    Returns: per bar and root of money; NaN when a trade has no known volume or volatility, or there are no trades.
    Raises: SchemaError: a column is missing. ValueError: no capital, or no bars.
    """
    for noun, frame, columns in (("trades", trades, _TRADES), ("bars", bars, _BARS)):
        for name in columns:
            if name not in frame.columns:
                raise SchemaError(f"{noun} have no column {name!r}.{nearest(name, frame.columns)}", column=name)
    if not capital > 0.0 or bars_traded < 1 or not impact_y > 0.0:
        raise ValueError(
            f"capital={capital} and impact_y={impact_y} must be above 0, bars_traded={bars_traded} at least 1."
        )
    if trades.is_empty():
        return math.nan
    per_symbol = bars.sort("symbol", "timestamp").select(
        "timestamp",
        "symbol",
        _before((pl.col("close") * pl.col("volume")).rolling_mean(_VOLATILITY_BARS)).alias("money_volume"),
        _before((pl.col("close") / pl.col("close").shift(1) - 1.0).rolling_std(_VOLATILITY_BARS)).alias("volatility"),
    )
    share = (pl.col("notional") / capital).alias("share")
    traded = trades.group_by("timestamp", "symbol").agg(pl.col("notional").sum()).with_columns(share)
    joined = traded.join(per_symbol, on=["timestamp", "symbol"], how="left")
    known = joined.filter(
        pl.col("money_volume").is_finite() & (pl.col("money_volume") > 0.0) & pl.col("volatility").is_finite()
    )
    if known.height < joined.height:
        return math.nan
    cost = known.select((pl.col("share") ** 1.5 * pl.col("volatility") / pl.col("money_volume").sqrt()).sum()).item()
    return impact_y * float(cost) / bars_traded


def _before(value: pl.Expr) -> pl.Expr:
    """As it was known at the previous close."""
    return value.shift(1).over("symbol")
