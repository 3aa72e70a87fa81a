"""What is in the lake: its tables, their sizes, versions and differences, read from the log as far as it tells."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow.dataset as pads

from quantfleet.errors import SchemaError, nearest
from quantfleet.storage.delta import LakeTable
from quantfleet.storage.made import MADE_FOLDERS, MadeTable
from quantfleet.storage.store import Storage

__all__ = ["TableDiff", "TableSummary", "VersionRecord", "diff_versions", "find_tables", "summarise", "table_versions"]

KEYS = ("source", "symbol", "timestamp", "trade_id", "sequence", "side", "price")
"""Columns that tell rows of the lake's tables apart; a table uses those it has, price only where there is a sequence."""
UNCOMPARED = ("ingested_at",)
"""Columns whose change is no change of the data."""
_LOG = "_delta_log"
_EXAMPLES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSummary:
    """One version of one table; the rows themselves were not read."""

    path: str
    version: int
    columns: dict[str, str]
    """Name to type."""
    partition_by: tuple[str, ...]
    rows: int
    files: int
    size_bytes: int
    symbols: tuple[str, ...]
    """Empty when the table is not partitioned by symbol."""
    first: dt.datetime | None
    """Smallest timestamp (UTC); None when the table has no such column or no rows."""
    last: dt.datetime | None
    provenance: dict[str, str]
    unfinished: bool = False
    """Made by a job that is still at work, died or lost to another: some rows may be missing."""
    last_finished: int | None = None
    """Of a table that jobs make in several commits; None when there is none, and for every other table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionRecord:
    """One commit."""

    version: int
    time: dt.datetime
    operation: str
    rows_added: int | None
    """As far as the commit says; None when it does not."""
    rows_removed: int | None
    provenance: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class TableDiff:
    """What version `new` holds that version `old` does not, and the other way round."""

    path: str
    old: int
    new: int
    keys: tuple[str, ...]
    added: int
    removed: int
    changed: int
    by_symbol: dict[str, tuple[int, int, int]]
    """Symbols with a difference: rows added, removed, changed."""
    changed_columns: dict[str, int]
    """Column to rows in which it changed."""
    new_columns: tuple[str, ...]
    lost_columns: tuple[str, ...]
    examples: tuple[dict[str, Any], ...]
    """The first changed rows: keys, and `column` (old, new) for each change."""


def find_tables(storage: Storage, folder: str = "lake") -> list[str]:
    """Paths of all Delta tables below a folder, sorted."""
    found: list[str] = []
    names = storage.list(folder)
    if _LOG in names:
        return [folder]
    for name in names:
        if "=" not in name and "." not in name:  # neither a partition nor a file
            found += find_tables(storage, f"{folder}/{name}")
    return sorted(found)


def summarise(table: LakeTable, version: int | None = None) -> TableSummary:
    """Describe one version (the newest when None). Raises: MissingInputError: no such table or version."""
    files = table.files(version)
    schema = table.schema(version)
    number = table.latest().version if version is None else version
    by = table.partition_columns(version)
    symbols: tuple[str, ...] = ()
    if "symbol" in by and files.height:
        symbols = tuple(sorted(files["partition.symbol"].unique().drop_nulls()))
    first, last = _time_range(table, version, files)
    made = table.path.startswith(MADE_FOLDERS)
    whole = MadeTable(table.storage, table.path) if made else None
    finished = None if whole is None else whole.last_finished()
    return TableSummary(
        path=table.path,
        version=number,
        columns=schema,
        partition_by=by,
        rows=table.row_count(version),
        files=files.height,
        size_bytes=int(files["size_bytes"].sum()) if files.height else 0,
        symbols=symbols,
        first=first,
        last=last,
        provenance=table.properties(version),
        unfinished=whole is not None and not whole.is_finished(number),
        last_finished=None if finished is None else finished.version,
    )


def _time_range(
    table: LakeTable, version: int | None, files: pl.DataFrame
) -> tuple[dt.datetime | None, dt.datetime | None]:
    """From the log; from the footers of the Parquet files where a writer (Ray's) left no statistics in the log."""
    if not files.height or "timestamp" not in table.schema(version):
        return None, None
    if {"min.timestamp", "max.timestamp"} <= set(files.columns) and not files["min.timestamp"].null_count():
        ends: list[Any] = [files["min.timestamp"].min(), files["max.timestamp"].max()]
    else:
        groups = (group for fragment in table.dataset(version).get_fragments() for group in fragment.row_groups)
        statistics = [group.statistics["timestamp"] for group in groups if "timestamp" in (group.statistics or {})]
        if not statistics:
            return None, None
        ends = [min(s["min"] for s in statistics), max(s["max"] for s in statistics)]
    first, last = (time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC) for time in ends)
    return first, last


def table_versions(table: LakeTable) -> list[VersionRecord]:
    """Commits, newest first."""
    return [
        VersionRecord(
            version=int(commit["version"]),
            time=dt.datetime.fromtimestamp(commit["timestamp"] / 1000, tz=dt.UTC),
            operation=str(commit.get("operation", "unknown")),
            rows_added=_count(commit, "num_added_rows", "numTargetRowsInserted", "num_target_rows_inserted"),
            rows_removed=_count(commit, "num_deleted_rows", "num_target_rows_deleted"),
            provenance={
                str(name): str(value)
                for name, value in commit.items()
                if name not in _COMMIT_FIELDS and not isinstance(value, dict | list)
            },
        )
        for commit in table.history()
    ]


_COMMIT_FIELDS = frozenset(
    {
        "version",
        "timestamp",
        "operation",
        "operationParameters",
        "operationMetrics",
        "readVersion",
        "isolationLevel",
        "isBlindAppend",
        "engineInfo",
        "clientVersion",
        "quantfleet.commit",
    }
)


def _count(commit: dict[str, Any], *names: str) -> int | None:
    metrics = commit.get("operationMetrics") or {}
    return next((int(metrics[name]) for name in names if name in metrics), None)


def diff_versions(table: LakeTable, old: int, new: int, *, examples: int = _EXAMPLES) -> TableDiff:
    """Compare two versions row by row. Only files that one of them has and the other has not are read, one symbol's at a
    time, so memory is bounded by the largest symbol.

    Raises: MissingInputError: no such version. SchemaError: the table has none of the key columns.
    """
    before, after = table.dataset(old), table.dataset(new)
    old_names, new_names = before.schema.names, after.schema.names
    shared = [name for name in new_names if name in old_names]
    keys = tuple(name for name in KEYS if name in shared and (name != "price" or "sequence" in shared))
    if "timestamp" not in keys:
        raise SchemaError(
            f"{table.uri} has no column `timestamp` in both versions, so its rows cannot be told apart."
            f"{nearest('timestamp', shared)} It has: {', '.join(shared)}."
        )
    values = [name for name in shared if name not in keys and name not in UNCOMPARED]
    totals = [0, 0, 0]
    by_symbol: dict[str, tuple[int, int, int]] = {}
    changed_columns: dict[str, int] = {}
    shown: list[dict[str, Any]] = []
    for symbol, left, right in _unshared_rows(before, after, [*keys, *values]):
        added = right.join(left, on=keys, how="anti").height
        removed = left.join(right, on=keys, how="anti").height
        both = left.join(right, on=keys, how="inner", suffix="__new")
        differ = both.select(
            *keys,
            *values,
            *(f"{name}__new" for name in values),
            **{f"{name}__differs": _differs(name) for name in values},
        ).filter(pl.any_horizontal([f"{name}__differs" for name in values] or [pl.lit(False)]))
        for name in values:
            rows = int(differ[f"{name}__differs"].sum())
            if rows:
                changed_columns[name] = changed_columns.get(name, 0) + rows
        for row in differ.head(max(0, examples - len(shown))).iter_rows(named=True):
            changes = {name: (row[name], row[f"{name}__new"]) for name in values if row[f"{name}__differs"]}
            shown.append({key: row[key] for key in keys} | changes)
        counts = (added, removed, differ.height)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        if any(counts):
            known = by_symbol.get(symbol, (0, 0, 0))
            by_symbol[symbol] = (known[0] + added, known[1] + removed, known[2] + differ.height)
    return TableDiff(
        path=table.path,
        old=old,
        new=new,
        keys=keys,
        added=totals[0],
        removed=totals[1],
        changed=totals[2],
        by_symbol=dict(sorted(by_symbol.items())),
        changed_columns=changed_columns,
        new_columns=tuple(name for name in new_names if name not in old_names),
        lost_columns=tuple(name for name in old_names if name not in new_names),
        examples=tuple(shown),
    )


def _differs(name: str) -> pl.Expr:
    """NaN equals NaN and null equals null, as polars compares them."""
    return pl.col(name).ne_missing(pl.col(f"{name}__new"))


def _unshared_rows(
    before: pads.Dataset, after: pads.Dataset, columns: Sequence[str]
) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame]]:
    """Rows of the files that only one side has, symbol by symbol ("" where the table is not partitioned by symbol)."""
    sides = [{fragment.path: fragment for fragment in side.get_fragments()} for side in (before, after)]
    shared = set(sides[0]) & set(sides[1])
    groups: dict[str, tuple[list[Any], list[Any]]] = {}
    for side, fragments in enumerate(sides):
        for path, fragment in sorted(fragments.items()):
            if path not in shared:
                symbol = str(pads.get_partition_keys(fragment.partition_expression).get("symbol", ""))
                groups.setdefault(symbol, ([], []))[side].append(fragment)
    for symbol in sorted(groups):
        left, right = (
            _rows(fragments, dataset, columns)
            for fragments, dataset in zip(groups[symbol], (before, after), strict=True)
        )
        yield symbol, left, right


def _rows(fragments: list[Any], dataset: Any, columns: Sequence[str]) -> pl.DataFrame:
    chosen = pads.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)
    frame = pl.from_arrow(chosen.to_table(columns=list(columns)))
    assert isinstance(frame, pl.DataFrame)
    return frame
