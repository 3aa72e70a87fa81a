"""Give every row its segment, and prove afterwards that no label interval touches what it must not see."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import polars as pl

from quantfleet.contracts import SEGMENTS, Segment, SplitPlan, Timeframe
from quantfleet.errors import EmptyTableError, LeakageError, SchemaError
from quantfleet_data.splits.leak import assert_no_leak, require_label_columns

__all__ = ["SegmentCounts", "assign_segments", "check_split", "count_segments", "require_rows", "segment_column"]

SegmentCounts = tuple[Counter[str | None], Counter[str]]
"""Rows of each segment (under None those left out), and rows that lie inside its intervals."""


def segment_column(plan: SplitPlan) -> pl.Expr:
    """The segment of a row by its `timestamp` and `t_end`: "train", "validation", "test", or null where it is left out."""
    masks = {segment: plan.mask(segment, pl.col("timestamp"), pl.col("t_end")) for segment in SEGMENTS}
    return pl.coalesce(*(pl.when(mask).then(pl.lit(segment)) for segment, mask in masks.items())).alias("segment")


def count_segments(assigned: pl.DataFrame, plan: SplitPlan) -> SegmentCounts:
    """Count an assignment, or a part of one; counts of parts add up."""
    inside = assigned.select(plan.inside(s, pl.col("timestamp")).sum().alias(s) for s in SEGMENTS)
    return Counter(dict(assigned.group_by("segment").len().iter_rows())), Counter(inside.row(0, named=True))


def require_rows(counts: SegmentCounts, plan: SplitPlan) -> None:
    """Raises: EmptyTableError: a segment of the plan gets no rows."""
    rows, inside = counts
    for segment in SEGMENTS:
        if plan.intervals(segment) and not rows[segment]:
            raise EmptyTableError(
                f"split: {segment} gets no rows. Its {_listed(plan, segment)} holds {inside[segment]} rows, all of them with "
                "labels that are unknown or reach into what they must not see. Use more bars, shorter label horizons or a wider "
                f"{segment} interval.",
                segment=segment,
                rows_inside=inside[segment],
            )


def assign_segments(labels: pl.DataFrame, plan: SplitPlan) -> pl.DataFrame:
    """Add the column `segment`: "train", "validation", "test", or null where a row is purged or embargoed.

    Args:
        labels: columns symbol, timestamp, t_end (null where a label of the row is unknown) and any others, all symbols.
        plan: the intervals; `SplitPlan.mask` decides.
    Raises:
        EmptyTableError: a segment gets no rows.
        SchemaError, TimeError: the label table lacks a column, or its times are not in UTC.
    """
    require_label_columns(labels)
    assigned = labels.with_columns(segment_column(plan))
    require_rows(count_segments(assigned, plan), plan)
    return assigned


def check_split(assigned: pl.DataFrame, plan: SplitPlan) -> None:
    """Prove that an assignment is clean, whoever made it: from the rows themselves, not from the plan's own mask.

    Args:
        assigned: columns symbol, timestamp, t_end, segment, of all symbols.
        plan: the plan the rows were assigned by.
    Raises:
        LeakageError: names the first row (by time, then symbol) that lies outside its segment's intervals; or the first pair of
            rows whose label intervals overlap across train, validation and test, see `assert_no_leak`.
        SchemaError, TimeError, EmptyTableError: the table is not an assignment.
    """
    require_label_columns(assigned, "segment")
    strange = set(assigned["segment"].drop_nulls().unique()) - set(SEGMENTS)
    if strange:
        raise SchemaError(f"unknown segments {', '.join(sorted(strange))}; there are {', '.join(SEGMENTS)}.")
    rows = {segment: assigned.filter(pl.col("segment") == segment) for segment in SEGMENTS}
    for segment in SEGMENTS:
        outside = rows[segment].filter(~plan.inside(segment, pl.col("timestamp"))).sort("timestamp", "symbol")
        if not outside.is_empty():
            first = outside.row(0, named=True)
            raise LeakageError(
                f"split leaks in {outside.height} rows: {first['symbol']} t={first['timestamp']} t_end={first['t_end']} is "
                f"marked {segment}, outside its {_listed(plan, segment)}. Assign rows with `assign_segments`.",
                symbol=first["symbol"],
                t=first["timestamp"].isoformat(),
                rows=outside.height,
            )
    bars = plan.embargo_bars * Timeframe(plan.timeframe).delta
    embargo = max(dt.timedelta(seconds=plan.embargo_s), bars)  # so many bars last so long at least
    pairs: tuple[tuple[Segment, Segment], ...] = (("train", "validation"), ("train", "test"), ("validation", "test"))
    for seen, unseen in pairs:
        if not (rows[seen].is_empty() or rows[unseen].is_empty()):
            assert_no_leak(rows[seen], rows[unseen], embargo=embargo, names=(seen, unseen))


def _listed(plan: SplitPlan, segment: Segment) -> str:
    own = plan.intervals(segment)
    return f"interval{'s' * (len(own) != 1)} " + (", ".join(f"[{i.start}, {i.end})" for i in own) or "(none)")
