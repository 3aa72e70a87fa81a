"""All checks on one symbol's bars."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError
from quantfleet_data.quality.anomalies import find_outliers, find_thin_moves
from quantfleet_data.quality.breaks import find_breaks
from quantfleet_data.quality.checks import (
    find_contradictions,
    find_duplicates,
    find_flat_bars,
    find_gaps,
    find_stale_runs,
    find_zero_volume_runs,
    keep_last_ingested,
)
from quantfleet_data.quality.finding import CHECKS, Finding
from quantfleet_data.quality.policy import QualityPolicy

__all__ = ["inspect_bars"]

_DAY_RUN_BARS = 1
_ZERO_VOLUME_RUN_BARS, _FLAT_RUN_BARS = 3, 20


def inspect_bars(
    bars: pl.DataFrame, policy: QualityPolicy, timeframe: Timeframe, *, union: pl.Series | None = None
) -> tuple[Finding, ...]:
    """Run every check with the policy's thresholds; nothing is changed and nothing is decided yet.

    Args:
        bars: BAR_COLUMNS of one symbol, sorted by time, times in UTC, prices positive (ingest sees to that); times may
            repeat: then the other checks look at the bar of each time that was ingested last. The optional column
            `prev_adj_close` tells splits from crashes (see `find_breaks`).
        policy: thresholds and calendar.
        timeframe: length of a bar.
        union: open times of all bars of the market; needed when `policy.calendar` is "union", of use with "sessions".
    Returns: findings ordered by check, then time, with `known_at`. Checks that take more than one symbol's bars are not
        among them: `MarketTimes.halts` and `find_corrections`.
    Raises:
        ConfigError: the calendar is "union", and `union` was not given; or it is "sessions", and bars are too long for it.
        SchemaError: several symbols. EmptyTableError: no bars.
    """
    if bars.is_empty():
        raise EmptyTableError("there are no bars to inspect.")
    if bars["symbol"].n_unique() != 1:
        raise SchemaError(f"these bars hold {bars['symbol'].n_unique()} symbols; inspect one symbol at a time.")
    if policy.calendar == "union" and union is None:
        raise ConfigError(
            "quality.calendar=union needs the times of all bars of the market: pass `union`, or set calendar: "
            "continuous for a market that never closes, sessions for one that closes at weekends."
        )
    single, due = keep_last_ingested(bars), None if policy.calendar == "continuous" else union
    daily = timeframe.delta >= dt.timedelta(days=1)
    silent_bars = policy.zero_volume_bars or (_DAY_RUN_BARS if daily else _ZERO_VOLUME_RUN_BARS)
    flat_bars = policy.flat_bars or (_DAY_RUN_BARS if daily else _FLAT_RUN_BARS)
    stop = dt.timedelta(days=policy.reuse_stop_days)
    breaks = find_breaks(single, timeframe, tolerance=policy.split_tolerance, stop=stop, union=due)
    thin = [finding for finding in find_thin_moves(single) if not _explained(finding, breaks)]
    found = (
        *find_gaps(
            single,
            timeframe,
            union=due if policy.calendar == "union" else None,
            closed=policy.closed_from(timeframe),
        ),
        *find_duplicates(bars),
        *find_contradictions(single),
        *find_stale_runs(single, min_bars=policy.stale_bars),
        *find_zero_volume_runs(single, min_bars=silent_bars),
        *find_flat_bars(single, min_bars=flat_bars),
        *find_outliers(single, z=policy.outlier_z, window_bars=policy.outlier_window_bars, scale=policy.outlier_scale),
        *thin,
        *breaks,
    )
    known = (replace(f, known_at=f.known_at or _known_at(f, single, timeframe)) for f in found)
    return tuple(sorted(known, key=lambda finding: (CHECKS.index(finding.check), finding.start)))


def _explained(move: Finding, breaks: Sequence[Finding]) -> bool:
    """Whether a change of scale says already why a close is far from the one before."""
    return any(b.known_at is not None and b.start <= move.start < b.known_at for b in breaks)


def _known_at(finding: Finding, bars: pl.DataFrame, timeframe: Timeframe) -> dt.datetime:
    """The close of the last bar concerned, or of all bars where all were looked at."""
    last: dt.datetime = bars["timestamp"][-1] if finding.hindsight else finding.end
    return last + timeframe.delta
