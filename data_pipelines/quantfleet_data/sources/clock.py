"""What a timeframe says about timestamps: which bars are closed, and whether the bars are of that timeframe at all."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl

from quantfleet.contracts import Timeframe
from quantfleet.errors import TimeError

__all__ = ["as_utc", "check_timeframe", "closed_bars", "grid_seconds"]

_DAY_S = 86_400
_STEPS_THAT_TELL = 30
"""So many steps between bars, none of them a single timeframe and all of them multiples of a longer one, are no
accident: gaps at random would look like that once in 2**30 series.
"""


def as_utc(moment: dt.datetime) -> dt.datetime:
    """The same moment in UTC; a naive one is taken as UTC, so this is for fields whose name ends in `_utc`."""
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def closed_bars(bars: pl.DataFrame, timeframe: Timeframe, now_utc: dt.datetime) -> pl.DataFrame:
    """Keep the bars that are over by `now_utc`: those with timestamp + timeframe <= now."""
    return bars.filter(pl.col("timestamp") <= as_utc(now_utc) - timeframe.delta)


def grid_seconds(timeframe: Timeframe) -> int | None:
    """Seconds between the only open times a round-the-clock market has, counted from 1970; None for timeframes that do
    not divide a day, whose start every market chooses for itself (weeks from Monday, three days from its first).
    """
    return timeframe.seconds if _DAY_S % timeframe.seconds == 0 else None


def check_timeframe(bars: pl.DataFrame, timeframe: Timeframe, *, where: str) -> None:
    """Refuse bars that cannot be of this timeframe.

    Args:
        bars: what `validate_bars` returned: UTC, sorted by symbol and time.
        where: what to call them in messages.
    Raises: TimeError: bars of whole days not labelled 00:00 UTC; bars of one symbol that overlap, since they are closer
        than a timeframe; or at least 30 steps that are all multiples of a longer timeframe.
    """
    if timeframe.seconds % _DAY_S == 0:
        labels = bars.filter(pl.col("timestamp").dt.time() != dt.time(0))
        if not labels.is_empty():
            raise TimeError(
                f"{where}: {labels.height} bars of {timeframe} do not open at 00:00 UTC, first {labels['symbol'][0]} "
                f"{labels['timestamp'][0]}. Daily bars carry the exchange's date at 00:00 UTC as a label: give dates, "
                "or `time_zone: UTC` for naive midnights.",
                timeframe=str(timeframe),
            )
    steps = bars.select(
        "symbol", "timestamp", step_us=pl.col("timestamp").diff().over("symbol").dt.total_microseconds()
    ).filter(pl.col("step_us").is_not_null())
    unit_us = timeframe.seconds * 1_000_000
    close = steps.filter(pl.col("step_us") < unit_us)
    if not close.is_empty():
        raise TimeError(
            f"{where}: {close.height} bars open less than {timeframe} after the bar before, first {close['symbol'][0]} "
            f"{close['timestamp'][0]} after {close['step_us'][0] / 1e6:g} s. They are not bars of {timeframe}: correct "
            "the timeframe, or the source.",
            timeframe=str(timeframe),
        )
    for (symbol,), own in steps.group_by("symbol", maintain_order=True):
        if own.height >= _STEPS_THAT_TELL:
            common_us = int(np.gcd.reduce(own["step_us"].to_numpy()))
            if common_us > unit_us:
                raise TimeError(
                    f"{where}: all {own.height} steps of {symbol} are multiples of {common_us / 1e6:g} s, so these are "
                    f"not bars of {timeframe} ({timeframe.seconds} s). Correct the timeframe, or the source.",
                    timeframe=str(timeframe),
                )
