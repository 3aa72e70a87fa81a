"""Point-in-time join: to every event the newest feature row that was known by then, never a later one."""

from __future__ import annotations

import datetime as dt

import polars as pl

from quantfleet.contracts import Timeframe
from quantfleet.errors import SchemaError, TimeError

__all__ = ["point_in_time_join"]


def point_in_time_join(
    events: pl.DataFrame, features: pl.DataFrame, timeframe: Timeframe, *, max_age: dt.timedelta | None = None
) -> pl.DataFrame:
    """Give every event the features its symbol had at that time.

    Args:
        events: columns symbol and time (UTC, microseconds), any others; any order. `time` is when a decision is made.
        features: symbol, timestamp (open of the bar, UTC) and feature columns, as the feature table holds them. A row is
            known at timestamp + timeframe.
        max_age: features known longer ago than this are not joined; any age when None.
    Returns: the events in their order, with `feature_timestamp` (open of the bar, null where nothing was known yet) and the
        feature columns.
    Raises: SchemaError: a column is missing or doubled. TimeError: a time has no zone or is null.
    """
    for frame, name, needed in (
        (events, "events", ("symbol", "time")),
        (features, "features", ("symbol", "timestamp")),
    ):
        missing = [column for column in needed if column not in frame.columns]
        if missing:
            raise SchemaError(f"the {name} lack the column {', '.join(missing)}; they have {', '.join(frame.columns)}.")
        kind = frame.schema[needed[1]]
        if not isinstance(kind, pl.Datetime) or kind.time_zone is None:
            raise TimeError(f"{name}.{needed[1]} is {kind}; give it as a time in UTC, such as Datetime('us', 'UTC').")
        if frame[needed[1]].null_count():
            raise TimeError(f"{name}.{needed[1]} is null in {frame[needed[1]].null_count()} rows; fill or drop them.")
    doubled = sorted((set(events.columns) & set(features.columns)) - {"symbol"})
    if doubled or "feature_timestamp" in events.columns:
        names = ", ".join(doubled) or "feature_timestamp"
        raise SchemaError(f"both tables have {names}; rename them in the events.")
    utc = pl.Datetime("us", "UTC")
    known = features.with_columns(
        feature_timestamp=pl.col("timestamp").cast(utc), known_at=pl.col("timestamp").cast(utc) + timeframe.delta
    ).drop("timestamp")
    joined = (
        events.with_row_index("_order")
        .with_columns(pl.col("time").cast(utc))
        .sort("time")
        .join_asof(
            known.sort("known_at"),
            left_on="time",
            right_on="known_at",
            by="symbol",
            strategy="backward",
            tolerance=max_age,
            check_sortedness=False,  # both were sorted just now; polars cannot see it group by group
        )
        .sort("_order")
    )
    return joined.select(
        *events.columns, "feature_timestamp", *(c for c in features.columns if c not in ("symbol", "timestamp"))
    )
