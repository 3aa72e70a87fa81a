"""Prices across splits, swaps and dividends, point in time.

Two views, and one rule for both: an action counts from the moment at which it was in effect AND known.

`adjust_forward` multiplies each bar by the actions up to it. A later action never changes an earlier bar, so features of
this series pass the truncation test and versions agree. Its level drifts away from the quoted price; ratios of prices,
which are all that scale-free features use, are right. This is the series to train on.

`adjust_backward` is what a chart showed at one moment: the last price is the quoted one and the past is scaled to it. Used
with `as_of` at the end of the history it puts later splits into earlier prices: the level of a bar then tells whether its
asset split afterwards (a price of 0.3 that traded at 30 has risen a hundredfold). Give it to people, not to models.
"""

from __future__ import annotations

import datetime as dt
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import BAR_COLUMNS, PRICE_COLUMNS, Timeframe, validate_bars
from quantfleet.contracts.instrument import validate_actions
from quantfleet.errors import DataError
from quantfleet_data.instruments.base import moment_of

__all__ = ["adjust_backward", "adjust_forward"]

_Array: TypeAlias = npt.NDArray[np.float64]
_FACTORS = ("split", "swap", "dividend")


def adjust_forward(bars: pl.DataFrame, actions: pl.DataFrame, *, dividends: bool = False) -> pl.DataFrame:
    """Multiply each bar's prices by what one unit held since the first bar has become by then.

    Args:
        bars: raw bars, BAR_COLUMNS, sorted by symbol and time.
        dividends: whether cash dividends are reinvested at the last close before them (total return).
    Returns: BAR_COLUMNS; volume divided by splits and swaps. Bars of symbols without actions are unchanged.
    Raises: DataError: a dividend is as large as the price; bars or actions break their contract.
    Note: an action announced after it took effect counts from its announcement on. The jump of the price stays in the
        series, as everybody saw it, and the level jumps back when the news comes.
    """
    checked, known = _checked(bars, actions, dividends=dividends)
    price, volume = _factors(checked, known, pl.max_horizontal("effective_at", "announced_at"))
    return _scaled(checked, price, volume)


def adjust_backward(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    timeframe: Timeframe,
    *,
    as_of: dt.date | dt.datetime,
    dividends: bool = False,
) -> pl.DataFrame:
    """Scale the past to the price quoted at `as_of`, with the actions in effect and announced by then and no other.

    Args:
        bars: raw bars, BAR_COLUMNS, sorted by symbol and time. Those not closed by `as_of` are left out.
    Returns: BAR_COLUMNS. Another `as_of` gives other values for the same bars, if an action lies between the two.
    Raises: as `adjust_forward`.
    """
    moment = moment_of(as_of)
    checked, known = _checked(bars, actions, dividends=dividends)
    known = known.filter(pl.max_horizontal("effective_at", "announced_at") <= moment)
    closed = checked.filter(pl.col("timestamp") + timeframe.delta <= moment)
    if closed.is_empty():
        return closed
    price, volume = _factors(closed, known, pl.col("effective_at"), from_the_end=True)
    return _scaled(closed, price, volume)


def _checked(bars: pl.DataFrame, actions: pl.DataFrame, *, dividends: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    kinds = _FACTORS if dividends else _FACTORS[:2]
    own = validate_actions(actions, where="corporate actions").filter(
        pl.col("kind").is_in(kinds) & (pl.col("new_symbol").is_null())
    )
    return validate_bars(bars, where="bars to adjust").select(BAR_COLUMNS), own


def _factors(
    bars: pl.DataFrame, actions: pl.DataFrame, counts_from: pl.Expr, *, from_the_end: bool = False
) -> tuple[_Array, _Array]:
    """Per bar, the factor of its prices and the divisor of its volume; with `from_the_end`, relative to all actions."""
    price, volume = np.ones(bars.height), np.ones(bars.height)
    starts = (
        bars.select(pl.col("symbol").rle()).unnest("symbol").with_columns(first=pl.col("len").cum_sum() - pl.col("len"))
    )
    spans = {symbol: (first, first + length) for length, symbol, first in starts.iter_rows()}
    for (symbol,), own in actions.with_columns(at=counts_from).group_by("symbol", maintain_order=True):
        if symbol not in spans:
            continue
        rows = slice(*spans[str(symbol)])
        times, close = bars["timestamp"][rows], bars["close"][rows].to_numpy()
        place = np.asarray(times.search_sorted(own["at"], side="left"))
        before = np.asarray(times.search_sorted(own["effective_at"], side="left")) - 1
        growth, split = np.ones(len(times) + 1), np.ones(len(times) + 1)
        for i, (kind, ratio, cash) in enumerate(own.select("kind", "ratio", "cash").iter_rows()):
            if before[i] < 0:
                continue  # before the first bar: nothing was held
            if kind == "dividend":
                last = float(close[before[i]])
                if cash >= last:
                    raise DataError(
                        f"corporate actions: {symbol} pays {cash} at {own['effective_at'][i]}, and its last close is {last}. "
                        "Check the units of both."
                    )
                growth[place[i]] *= last / (last - cash)
            else:
                growth[place[i]] *= ratio
                split[place[i]] *= ratio
        for out, steps in ((price, growth), (volume, split)):
            total = np.cumprod(steps)
            out[rows] = total[:-1] / total[-1] if from_the_end else total[:-1]
    return price, volume


def _scaled(bars: pl.DataFrame, price: _Array, volume: _Array) -> pl.DataFrame:
    return bars.with_columns(
        *(pl.col(name) * pl.Series(price) for name in PRICE_COLUMNS),
        (pl.col("volume") / pl.Series(volume)).alias("volume"),
    )
