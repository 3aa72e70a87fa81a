"""Checks of one symbol's raw bars that need no judgement: what is missing, doubled, contradictory or standing still.

Every function takes bars of one symbol, sorted by time with times in UTC (ingest refuses others), and returns findings
in order of time.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl

from quantfleet.contracts import PRICE_COLUMNS, Timeframe
from quantfleet_data.quality.finding import Check, Finding, Severity, runs

__all__ = [
    "find_contradictions",
    "find_duplicates",
    "find_flat_bars",
    "find_gaps",
    "find_stale_runs",
    "find_zero_volume_runs",
    "keep_last_ingested",
]


def find_gaps(
    bars: pl.DataFrame, timeframe: Timeframe, *, union: pl.Series | None = None, closed: dt.timedelta | None = None
) -> tuple[Finding, ...]:
    """Find bars missing between the symbol's first and last bar.

    Args:
        bars: one symbol.
        timeframe: length of a bar.
        union: open times (UTC) at which any symbol of the market has a bar, for markets that close; None for a
            market that never does, where a bar is due every timeframe.
        closed: without a union, a break between two bars of at least this length (from open to open) is no gap.
    """
    stamps = bars["timestamp"].unique().sort()
    if union is None:
        steps = pl.DataFrame({"before": stamps.shift(1), "step": stamps.diff()}).filter(
            (pl.col("step") > timeframe.delta) & (pl.lit(True) if closed is None else pl.col("step") < closed)
        )
        missing = [(before + timeframe.delta, -(-step // timeframe.delta) - 1) for before, step in steps.iter_rows()]
        return tuple(_gap(bars, start, start + (count - 1) * timeframe.delta, count) for start, count in missing)
    expected = (union if union.is_sorted() else union.sort()).dt.epoch("us").to_numpy()
    own = stamps.dt.epoch("us").to_numpy()
    expected = np.unique(expected[np.searchsorted(expected, own[0]) : np.searchsorted(expected, own[-1], "right")])
    place = np.minimum(np.searchsorted(own, expected), own.size - 1)
    due = pl.from_epoch(pl.Series(expected), time_unit="us").dt.replace_time_zone("UTC")
    absent = runs(pl.Series(own[place] != expected))
    return tuple(_gap(bars, due[row], due[row + count - 1], count) for row, count in absent)


def _gap(bars: pl.DataFrame, start: dt.datetime, end: dt.datetime, count: int) -> Finding:
    return Finding(
        check="gaps",
        symbol=bars["symbol"][0],
        start=start,
        end=end,
        bars=count,
        detail=f"{count} bars missing",
        severity="warning",
    )


def find_duplicates(bars: pl.DataFrame) -> tuple[Finding, ...]:
    """Find times that have more than one bar, neighbouring ones as one finding. `bars` counts the bars too many."""
    if _each_later(bars):
        return ()
    counts = bars.group_by("timestamp", maintain_order=True).len()
    found = []
    for row, length in runs(counts["len"] > 1):
        stretch = counts[row : row + length]
        surplus = int(stretch["len"].sum()) - length
        found.append(
            Finding(
                check="duplicates",
                symbol=bars["symbol"][0],
                start=stretch["timestamp"][0],
                end=stretch["timestamp"][-1],
                bars=surplus,
                detail=f"{surplus} bars too many at {length} times",
                severity="error",
            )
        )
    return tuple(found)


def keep_last_ingested(bars: pl.DataFrame) -> pl.DataFrame:
    """One bar per symbol and time: the one ingested last, by `ingested_at` if there is one, else the last row."""
    if _each_later(bars):
        return bars
    order = ["symbol", "timestamp", *(["ingested_at"] if "ingested_at" in bars.columns else [])]
    return bars.sort(order, maintain_order=True).unique(["symbol", "timestamp"], keep="last", maintain_order=True)


def _each_later(bars: pl.DataFrame) -> bool:
    """Whether every bar is later than the one before: then no time can be there twice, nor can a second symbol."""
    return bool((np.diff(bars["timestamp"].dt.epoch("us").to_numpy()) > 0).all())


def find_contradictions(bars: pl.DataFrame) -> tuple[Finding, ...]:
    """Find bars whose high or low does not enclose their open and close."""
    highest, lowest = pl.max_horizontal(PRICE_COLUMNS), pl.min_horizontal(PRICE_COLUMNS)
    flags = bars.select((pl.col("high") < highest) | (pl.col("low") > lowest)).to_series()
    return _stretches(bars, flags, "ohlc", "error", "high and low do not enclose open and close")


def find_stale_runs(bars: pl.DataFrame, *, min_bars: int) -> tuple[Finding, ...]:
    """Find runs of at least `min_bars` bars with the same open, high, low and close, the first of them included."""
    same = pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in PRICE_COLUMNS)
    repeats = bars.select(same.fill_null(False)).to_series()
    found = []
    for row, length in runs(repeats):
        if length + 1 >= min_bars:
            stretch = bars[row - 1 : row + length]
            found.append(_stretch(stretch, "stale", "warning", f"{length + 1} bars with the same prices"))
    return tuple(found)


def find_zero_volume_runs(bars: pl.DataFrame, *, min_bars: int) -> tuple[Finding, ...]:
    """Find runs of at least `min_bars` bars without any volume; null volume (a market that has none) does not count."""
    return _stretches(bars, bars["volume"] == 0.0, "zero_volume", "info", "no volume", min_bars=min_bars)


def find_flat_bars(bars: pl.DataFrame, *, min_bars: int) -> tuple[Finding, ...]:
    """Find runs of at least `min_bars` bars that have one price for open, high, low and close although the market was
    open: closes filled in for the rest, or a single trade.

    Bars without volume are the business of `find_zero_volume_runs`, bars that repeat each other of `find_stale_runs`.
    """
    flat = (pl.col("high") == pl.col("low")) & (pl.col("open") == pl.col("close")) & (pl.col("close") == pl.col("high"))
    traded = pl.col("volume").is_null() | (pl.col("volume") > 0.0)
    flags = bars.select(flat & traded).to_series()
    return _stretches(bars, flags, "flat", "info", "one price for open, high, low and close", min_bars=min_bars)


def _stretches(
    bars: pl.DataFrame, flags: pl.Series, check: Check, severity: Severity, what: str, *, min_bars: int = 1
) -> tuple[Finding, ...]:
    return tuple(
        _stretch(bars[row : row + length], check, severity, f"{what} in {length} bars")
        for row, length in runs(flags)
        if length >= min_bars
    )


def _stretch(stretch: pl.DataFrame, check: Check, severity: Severity, detail: str) -> Finding:
    return Finding(
        check=check,
        symbol=stretch["symbol"][0],
        start=stretch["timestamp"][0],
        end=stretch["timestamp"][-1],
        bars=stretch.height,
        detail=detail,
        severity=severity,
    )
