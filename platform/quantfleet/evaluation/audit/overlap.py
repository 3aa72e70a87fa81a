"""Rows and label intervals: nothing that is trained on may be known only inside the period that tests it."""

from __future__ import annotations

import polars as pl

from quantfleet.contracts import SEGMENTS
from quantfleet.evaluation.audit.base import AuditConfig, AuditInputs, Finding

__all__ = ["label_ends", "label_overlap", "segment_rows"]

_KEYS = ["symbol", "timestamp"]


def segment_rows(inputs: AuditInputs, config: AuditConfig) -> Finding:
    """Every target belongs to one segment, once, and lies in its time."""
    doubled = inputs.rows.group_by(_KEYS).len().filter(pl.col("len") > 1).height
    outside = sum(
        inputs.rows.filter((pl.col("segment") == s) & ~inputs.split.inside(s, pl.col("timestamp"))).height
        for s in SEGMENTS
    )
    if doubled or outside:
        return Finding(
            check="segment_rows",
            outcome="failed",
            detail=f"{doubled} target(s) are there more than once, {outside} lie outside the time of their segment",
            evidence={"doubled": float(doubled), "outside": float(outside)},
        )
    return Finding(
        check="segment_rows",
        outcome="passed",
        detail=f"{inputs.rows.height:,} targets, each in one segment and in its time",
    )


def label_overlap(inputs: AuditInputs, config: AuditConfig) -> Finding:
    """No label of training or validation reaches into a period that is hidden from it."""
    known = inputs.rows.join(inputs.labels.select(*_KEYS, "t_end"), on=_KEYS, how="left")
    reaching = {}
    for segment in ("train", "validation"):
        own = known.filter(pl.col("segment") == segment)
        bad = own.filter(~inputs.split.mask(segment, pl.col("timestamp"), pl.col("t_end")))
        if bad.height:
            reaching[segment] = (bad.height, bad["timestamp"].max(), bad["t_end"].max())
    if reaching:
        segment, (count, last, end) = next(iter(reaching.items()))
        return Finding(
            check="label_overlap",
            outcome="failed",
            detail=f"{count} {segment} target(s) have labels that are known only inside a later segment: the last at "
            f"{last!s}, known at {end!s}",
            evidence={segment: float(number) for segment, (number, _, _) in reaching.items()},
        )
    return Finding(
        check="label_overlap",
        outcome="passed",
        detail="every label of training and validation is known before the next segment begins",
    )


def label_ends(inputs: AuditInputs, config: AuditConfig) -> Finding:
    """A row's t_end is not before the close of the bar its longest label needs: purging trusts it."""
    horizon = inputs.split.horizon_bars
    needed = inputs.bars.sort(_KEYS).select(
        *_KEYS, (pl.col("timestamp").shift(-horizon).over("symbol") + inputs.bar_length).alias("needed")
    )
    both = inputs.labels.join(needed, on=_KEYS, how="inner").filter(pl.col("t_end").is_not_null())
    early = both.filter(pl.col("needed").is_null() | (pl.col("t_end") < pl.col("needed")))
    if early.height:
        first = early.row(0, named=True)
        return Finding(
            check="label_ends",
            outcome="failed",
            detail=f"{early.height} label row(s) say that they are known before the close of bar t + {horizon}: "
            f"{first['symbol']} at {first['timestamp']} says {first['t_end']}",
            evidence={"rows": float(early.height)},
        )
    if not both.height:
        return Finding(check="label_ends", outcome="not_checked", detail="no label row has a bar")
    return Finding(
        check="label_ends",
        outcome="passed",
        detail=f"{both.height:,} label rows are known at the close of bar t + {horizon} or later",
    )
