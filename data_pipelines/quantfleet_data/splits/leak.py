"""The proof of a split: no label interval of a training row overlaps one of a test row, of whatever symbol."""

from __future__ import annotations

import datetime as dt

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.errors import EmptyTableError, LeakageError, SchemaError, TimeError

__all__ = ["assert_no_leak", "require_label_columns"]

_UNKNOWN = np.iinfo(np.int64).max
_Times = npt.NDArray[np.int64]


def require_label_columns(labels: pl.DataFrame, *more: str) -> None:
    """Check that a label table has rows, symbol, timestamp and t_end in UTC, and `more` columns.

    Raises: SchemaError: a column is missing. TimeError: times not in UTC, or null timestamps. EmptyTableError: no rows.
    """
    for name in ("symbol", "timestamp", "t_end", *more):
        if name not in labels.columns:
            raise SchemaError(
                f"the label table has no column {name!r}; it has {', '.join(labels.columns)}. `compute_labels` makes "
                "it.",
                column=name,
            )
    if labels.is_empty():
        raise EmptyTableError("the label table holds no rows, so there is nothing to split.")
    for name in ("timestamp", "t_end"):
        kind = labels.schema[name]
        if not isinstance(kind, pl.Datetime) or kind.time_zone != "UTC":
            raise TimeError(f"column {name!r} of the label table is {kind}, not a time in UTC.", column=name)
    if labels["timestamp"].null_count():
        raise TimeError("column 'timestamp' of the label table has null values; every row needs its bar's open time.")


def assert_no_leak(
    train: pl.DataFrame,
    test: pl.DataFrame,
    *,
    embargo: dt.timedelta = dt.timedelta(0),
    names: tuple[str, str] = ("train", "test"),
) -> None:
    """Prove that no label interval [t, t_end] of a training row overlaps one of a test row, across all symbols.

    What is known at the very moment the other begins does not overlap it. A training row whose label is unknown leaks, since
    nothing tells how far it reaches; a test row whose label is unknown counts as its bar's open.

    Args:
        train, test: columns symbol, timestamp, t_end, in any order.
        embargo: training rows that follow a test row must begin so long after its t_end at the earliest.
        names: what the two are called in the error.
    Raises:
        LeakageError: names the first training row (by time, then symbol) that overlaps, and the first test row it overlaps
            with; fields symbol, t, t_end, test_symbol, test_t, test_t_end, rows.
        SchemaError, TimeError, EmptyTableError: a table is no label table.
    Cost: O(n log n) time, O(n) memory.
    """
    for table in (train, test):
        require_label_columns(table)
    train, test = (table.sort("timestamp", "symbol") for table in (train, test))
    t, t_end = _bounds(train)
    unknown = t_end == _UNKNOWN
    test_t, test_known = _bounds(test)
    test_known = np.where(test_known == _UNKNOWN, test_t, test_known)
    test_end = np.maximum(test_known, test_t + 1)  # a row without a label is still a moment
    reach = np.maximum(test_end, test_known + embargo // dt.timedelta(microseconds=1))
    furthest = np.maximum.accumulate(reach)  # of this and all earlier test rows
    begun = np.searchsorted(test_t, np.maximum(t_end, t + 1))  # test rows that begin before the training label is known
    leaks = unknown | ((begun > 0) & (furthest[np.maximum(begun - 1, 0)] > t))
    if not leaks.any():
        return
    first, rows = int(np.argmax(leaks)), int(leaks.sum())
    met = np.flatnonzero(reach[: begun[first]] > t[first])
    own = train.row(first, named=True)
    other = test.row(int(met[0]), named=True) if met.size else None
    if unknown[first]:
        what = f"is in {names[0]}, but its label is not known, so it may reach into {names[1]}"
    elif other is not None and t[first] >= test_end[met[0]]:
        what = f"is in {names[0]}, within the embargo of {embargo} after {_told(other)} of {names[1]}"
    else:
        what = f"is in {names[0]} and overlaps {_told(other)} of {names[1]}"
    raise LeakageError(
        f"split leaks in {rows} rows: {_told(own)} {what}. Purge by t_end and embargo with the splitters' own `folds` or "
        "`split`, and do not change t_end afterwards.",
        **_fields("", own),
        **_fields("test_", other),
        rows=rows,
    )


def _bounds(table: pl.DataFrame) -> tuple[_Times, _Times]:
    """t and t_end in microseconds; unknown is later than anything."""
    return table["timestamp"].dt.epoch("us").to_numpy(), table["t_end"].dt.epoch("us").fill_null(_UNKNOWN).to_numpy()


def _told(row: dict[str, object] | None) -> str:
    return "no row" if row is None else f"{row['symbol']} t={row['timestamp']} t_end={row['t_end']}"


def _fields(prefix: str, row: dict[str, object] | None) -> dict[str, str | None]:
    if row is None:
        return {}
    times = {name: row[column] for name, column in (("t", "timestamp"), ("t_end", "t_end"))}
    told = {name: at.isoformat() if isinstance(at, dt.datetime) else None for name, at in times.items()}
    return {f"{prefix}symbol": str(row["symbol"]), **{f"{prefix}{name}": at for name, at in told.items()}}
