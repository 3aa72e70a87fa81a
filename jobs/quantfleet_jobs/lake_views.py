"""`quantfleet data ...`: the lake's tables as a person reads them."""

from __future__ import annotations

import datetime as dt
from typing import Any, cast, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError, MissingInputError, nearest
from quantfleet.storage import LakeTable, Storage
from quantfleet.storage.catalog import TableDiff, TableSummary, VersionRecord, find_tables, summarise
from quantfleet_data.instruments import read_instruments
from quantfleet_data.per_symbol import in_process
from quantfleet_data.quality import CHECKS, Calendar, QualityPolicy
from quantfleet_data.quality_table import CheckedBars, inspect_table

__all__ = [
    "find_table",
    "inspect_and_show",
    "show_diff",
    "show_summary",
    "show_tables",
    "show_universe",
    "show_versions",
]

_LAKE = "lake"
_DAY_S = 86_400


def find_table(storage: Storage, name: str) -> LakeTable:
    """A table by its path with or without `lake/`, or by any part of its path that only one table has.

    Raises: MissingInputError: none or several are meant; names those there are.
    """
    tables = find_tables(storage, _LAKE)
    wanted = name.strip("/")
    for path in (wanted, f"{_LAKE}/{wanted}"):
        if path in tables:
            return LakeTable(storage, path)
    meant = [path for path in tables if wanted and wanted in path]
    if len(meant) == 1:
        return LakeTable(storage, meant[0])
    if meant:
        raise MissingInputError(f"{name!r} may be {' or '.join(meant)}; say which.")
    there = f"It has: {', '.join(tables)}." if tables else "It is empty: run `quantfleet run quickstart`."
    raise MissingInputError(f"there is no table {name!r} under {storage.uri()}.{nearest(name, tables)} {there}")


def show_tables(storage: Storage, console: Console) -> None:
    """One line a table: what it holds and from when to when."""
    paths = find_tables(storage, _LAKE)
    if not paths:
        console.print(f"No tables under {storage.uri()} yet. `quantfleet run quickstart` makes some.", soft_wrap=True)
        return
    table = Table(
        "table", "version", "rows", "symbols", "first (UTC)", "last (UTC)", "size", show_edge=False, pad_edge=False
    )
    table.columns[0].overflow = "fold"  # a path that is cut cannot be copied
    for column in (1, 2, 3, 6):
        table.columns[column].justify = "right"
    for path in paths:
        s = summarise(LakeTable(storage, path))
        symbols = str(len(s.symbols)) if s.symbols else "-"
        version = f"{s.version} (unfinished)" if s.unfinished else str(s.version)
        table.add_row(s.path, version, f"{s.rows:,}", symbols, _time(s.first), _time(s.last), _size(s.size_bytes))
    console.print(table)


def show_summary(summary: TableSummary, console: Console) -> None:
    """Everything the log says of one version."""
    facts = {
        "table": f"{summary.path}, version {summary.version}",
        "rows": f"{summary.rows:,} in {summary.files} files, {_size(summary.size_bytes)}",
        "time (UTC)": f"{_time(summary.first)} to {_time(summary.last)}, opens of the first and last bar",
        "partitioned by": ", ".join(summary.partition_by) or "nothing",
    }
    if summary.symbols:
        more = f", ... ({len(summary.symbols) - 12} more)" if len(summary.symbols) > 12 else ""
        facts["symbols"] = f"{len(summary.symbols)}: {', '.join(summary.symbols[:12])}{more}"
    if summary.first is None:
        del facts["time (UTC)"]
    if summary.unfinished:
        kept = (
            "there is none yet"
            if summary.last_finished is None
            else f"the last finished one is {summary.last_finished}"
        )
        facts["unfinished"] = f"a job is writing this version, or died: rows may be missing; {kept}"
    facts |= {f"made from: {name}": value for name, value in sorted(summary.provenance.items())}
    listing = Table(show_header=False, show_edge=False, pad_edge=False, box=None)
    for name, value in facts.items():
        listing.add_row(Text(name, style="bold"), Text(value))
    console.print(listing)
    columns = Table("column", "type", show_edge=False, pad_edge=False)
    for name, kind in summary.columns.items():
        columns.add_row(name, Text(kind))  # a type such as timestamp[us] is no markup
    console.print(columns)


def show_versions(records: list[VersionRecord], console: Console, *, limit: int) -> None:
    """Commits, newest first."""
    table = Table(
        "version", "committed (UTC)", "operation", "rows added", "removed", "note", show_edge=False, pad_edge=False
    )
    for record in records[:limit]:
        note = ", ".join(f"{name}={value}" for name, value in record.provenance.items())
        added, removed = ("-" if n is None else f"{n:,}" for n in (record.rows_added, record.rows_removed))
        table.add_row(str(record.version), _time(record.time), record.operation, added, removed, Text(note))
    console.print(table)
    if len(records) > limit:
        console.print(f"{len(records) - limit} older versions; --limit {len(records)} shows them.")


def show_diff(diff: TableDiff, console: Console) -> None:
    """What changed between two versions."""
    console.print(
        f"{diff.path}: version {diff.old} to {diff.new}, rows told apart by {', '.join(diff.keys)}", soft_wrap=True
    )
    for what, names in (("new columns", diff.new_columns), ("lost columns", diff.lost_columns)):
        if names:
            console.print(f"{what}: {', '.join(names)}", soft_wrap=True)
    console.print(f"{diff.added:,} rows added, {diff.removed:,} removed, {diff.changed:,} changed")
    if diff.changed_columns:
        console.print(
            "changed: " + ", ".join(f"{c} in {n:,} rows" for c, n in diff.changed_columns.items()), soft_wrap=True
        )
    if diff.by_symbol:
        table = Table("symbol", "added", "removed", "changed", show_edge=False, pad_edge=False)
        for symbol, counts in list(diff.by_symbol.items())[:30]:
            table.add_row(symbol or "all", *(f"{n:,}" for n in counts))
        console.print(table)
        if len(diff.by_symbol) > 30:
            console.print(f"... and {len(diff.by_symbol) - 30} more symbols")
    for example in diff.examples:
        key = " ".join(_value(example[name]) for name in diff.keys)
        changes = ", ".join(
            f"{name} {_value(pair[0])} -> {_value(pair[1])}" for name, pair in example.items() if name not in diff.keys
        )
        console.print(Text(f"  {key}: {changes}"), soft_wrap=True)


def inspect_and_show(table: LakeTable, version: int | None, calendar: str | None, console: Console) -> None:
    """Inspect a bars table, one symbol after the other, and say what was found and where the page is.

    Raises: ConfigError: it is no table of bars, or there is no such calendar.
    """
    parts = table.path.split("/")
    if parts[:2] != [_LAKE, "bars"] or len(parts) != 3:
        raise ConfigError(f"{table.path} holds no bars; quality is of tables such as bars/1d.")
    if calendar is None:
        calendar = "union" if Timeframe(parts[2]).seconds >= _DAY_S else "continuous"
    if calendar not in get_args(Calendar):
        raise ConfigError(f"--calendar {calendar!r} is none of {', '.join(get_args(Calendar))}.")
    version = table.latest().version if version is None else version
    policy = QualityPolicy(calendar=cast(Calendar, calendar), **dict.fromkeys(CHECKS, "keep"))  # type: ignore[arg-type]
    bars = CheckedBars(
        storage=table.storage,
        timeframe=parts[2],
        version=version,
        report=f"{_LAKE}/quality/{parts[2]}-look-{version}-{calendar}.json",
        policy=policy,
    )
    report = inspect_table(bars, run=in_process)
    console.print(f"{table.path}@{version}: {report.rows:,} bars of {len(report.symbols)} symbols")
    listing = Table("finding", "count", show_edge=False, pad_edge=False)
    for check, count in report.counts.items():
        if count:
            listing.add_row(check, f"{count:,}")
    console.print(listing if listing.row_count else "Nothing found.")
    console.print(Text.assemble("Page: ", (bars.storage.uri(bars.page), "bold")), soft_wrap=True)


def show_universe(storage: Storage, day: str, index: str | None, console: Console) -> None:
    """Symbols of a day. Raises: ConfigError: no such day. MissingInputError: no instruments were loaded."""
    try:
        date = dt.date.fromisoformat(day)
    except ValueError as error:
        raise ConfigError(f"{day!r} is no day; write it as 2008-09-15.") from error
    if not LakeTable(storage, f"{_LAKE}/instruments/listings").exists():
        raise MissingInputError(
            f"no instruments were loaded into {storage.uri()}. Give a recipe an `instruments` section and run `quantfleet ingest`."
        )
    symbols = read_instruments(storage).universe(date, index)
    where = f"in {index}" if index else "listed"
    console.print(f"{len(symbols)} symbols were {where} on {date}")
    console.print(", ".join(symbols), soft_wrap=True, highlight=False)


def _value(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return _time(value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _time(time: dt.datetime | None) -> str:
    if time is None:
        return "-"
    return f"{time:%Y-%m-%d}" if time.time() == dt.time() else f"{time:%Y-%m-%d %H:%M}"


def _size(size_bytes: int) -> str:
    value, unit = float(size_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"
