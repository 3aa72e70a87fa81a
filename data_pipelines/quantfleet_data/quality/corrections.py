"""Bars whose values were changed after they had been written: what a source said first, and what it says now.

A correction is a new version of the bars table, never a silent edit, so the table itself remembers. Only commits that
updated rows are looked at, and of these only the files that differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import polars as pl

from quantfleet.contracts import VALUE_COLUMNS
from quantfleet.errors import MissingInputError
from quantfleet.logs import get_logger
from quantfleet.storage import LakeTable
from quantfleet_data.quality.finding import Finding

__all__ = ["correcting_versions", "find_corrections", "read_corrections"]

_log = get_logger(__name__)
_KEYS = ("source", "symbol", "timestamp")


def find_corrections(before: pl.DataFrame, after: pl.DataFrame, *, version: int) -> tuple[Finding, ...]:
    """Find bars of one symbol that two versions of the bars table tell differently; new and missing bars are none.

    Args:
        before, after: columns source, symbol, timestamp, VALUE_COLUMNS and, in `after`, `ingested_at`.
        version: of `after`, for the message.
    Returns: one finding per run of changed bars of a source, known from the latest `ingested_at` of the run on.
    """
    both = after.sort("source", "timestamp").join(
        before.select(*_KEYS, *VALUE_COLUMNS), on=_KEYS, how="inner", suffix="_before", maintain_order="left"
    )
    changed = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_before")) for name in VALUE_COLUMNS)
    run = pl.struct("source", changed.alias("changed")).rle_id()
    stretches = both.with_columns(changed=changed, run=run).filter("changed").partition_by("run", maintain_order=True)
    return tuple(sorted((_finding(stretch, version) for stretch in stretches), key=lambda f: (f.start, f.detail)))


def _finding(changed: pl.DataFrame, version: int) -> Finding:
    move = (changed["close"] / changed["close_before"] - 1.0).abs()
    largest = changed.row(move.arg_max() or 0, named=True)
    fields = [n for n in VALUE_COLUMNS if changed.select(pl.col(n).ne_missing(pl.col(f"{n}_before")).any()).item()]
    said = largest["ingested_at"]
    return Finding(
        check="corrections",
        symbol=largest["symbol"],
        start=changed["timestamp"][0],
        end=changed["timestamp"][-1],
        bars=changed.height,
        detail=f"{largest['source']} changed {', '.join(fields)} in version {version}, ingested {said:%Y-%m-%d %H:%M}; "
        f"at {largest['timestamp']:%Y-%m-%d %H:%M} the close went from {largest['close_before']:g} to "
        f"{largest['close']:g}",
        severity="warning",
        known_at=changed["ingested_at"].max(),  # type: ignore[arg-type]  # a Datetime column's maximum
        hindsight=True,
    )


def correcting_versions(table: LakeTable, version: int) -> Mapping[str, Sequence[int]]:
    """Versions up to `version` that updated rows of the bars table, oldest first, per symbol whose files they touched.

    The log alone is read, never a bar. Versions that can no longer be opened are left out, with a warning in the log.
    """
    touched: dict[str, list[int]] = defaultdict(list)
    for commit in sorted(table.history(), key=lambda c: int(c["version"])):
        number = int(commit["version"])
        if 0 < number <= version and _updated_rows(commit):
            for symbol in _symbols_changed(table, number):
                touched[symbol].append(number)
    return touched


def _updated_rows(commit: Mapping[str, object]) -> bool:
    """Whether a commit may have changed a row that was there: its writer says so, or Delta does."""
    own = commit.get("corrected")
    if own is not None:
        return int(str(own)) > 0
    metrics = commit.get("operationMetrics")
    return isinstance(metrics, Mapping) and int(metrics.get("num_target_rows_updated") or 0) > 0


def _symbols_changed(table: LakeTable, version: int) -> set[str]:
    try:
        before, after = (table.files(number).select("path", "partition.symbol") for number in (version - 1, version))
    except MissingInputError as gone:
        _log.warning("quality.corrections_unreadable", table=table.uri, version=version, error=gone.message)
        return set()
    return set(after.join(before, on="path", how="anti")["partition.symbol"])


def read_corrections(table: LakeTable, symbol: str, versions: Sequence[int]) -> tuple[Finding, ...]:
    """Find the corrections of one symbol in the versions that `correcting_versions` names, two versions at a time.

    A version whose files were vacuumed away is left out, with a warning in the log.
    """
    found: list[Finding] = []
    for version in versions:
        try:
            before = table.read(version - 1, columns=[*_KEYS, *VALUE_COLUMNS], symbols=(symbol,))
            after = table.read(version, columns=[*_KEYS, *VALUE_COLUMNS, "ingested_at"], symbols=(symbol,))
        except MissingInputError as gone:
            _log.warning("quality.corrections_unreadable", table=table.uri, version=version, error=gone.message)
            continue
        found += find_corrections(before, after, version=version)
    return tuple(sorted(found, key=lambda finding: finding.start))
