"""The feature table: every symbol's features, recomputed only where bars are new, equal to computing all of them.

Memory of a task is bounded by one symbol's bars and a block of its features; of a cross-section's task by ROWS_PER_MOMENTS
rows; the driver sees names, counts and one state row a symbol.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl
import pyarrow as pa

from quantfleet.config import fingerprint
from quantfleet.contracts import FeatureSet
from quantfleet.errors import DataError, StorageError
from quantfleet.logs import get_logger
from quantfleet.storage import MadeTable, Rewrite, Storage, TableVersion
from quantfleet_data.feature_store.live import LiveFeatures
from quantfleet_data.feature_store.moments import cross_sections
from quantfleet_data.feature_store.plan import FeaturePlan, SymbolRun, is_prefix
from quantfleet_data.feature_store.state import SymbolState, states_from_bytes, states_to_bytes
from quantfleet_data.features import assert_causal, assert_causal_across, compute_features, spread_cuts
from quantfleet_data.per_symbol import per_symbol

__all__ = ["BarContext", "FeatureBars", "feature_table_path", "write_features"]

log = get_logger(__name__)

ROWS_PER_MOMENTS = 2_000_000
"""Rows of all symbols that one task of a cross-section reads at most, about."""
_CANARY_BARS, _CANARY_CUTS, _CANARY_ENOUGH, _CANARY_SYMBOLS = 20_000, 3, 2_000, 64


class FeatureBars(Protocol):
    """Bars as quality left them (`quantfleet_data.quality_table.CheckedBars`)."""

    @property
    def storage(self) -> Storage: ...
    @property
    def timeframe(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def symbols(self) -> tuple[str, ...]: ...
    @property
    def fingerprint(self) -> str: ...
    def read(self, symbol: str) -> pl.DataFrame: ...


class BarContext(Protocol):
    """Columns that features read beside a symbol's own bars, such as those of an index."""

    @property
    def fingerprint(self) -> str: ...
    def join(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Add the columns, each known at the bar's close at the latest."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What every task of one run gets."""

    bars: FeatureBars
    context: BarContext | None
    plan: FeaturePlan
    known: Mapping[str, SymbolState]
    scratch: str
    """Folder under the storage root for what tasks hand to each other."""

    def read(self, symbol: str) -> pl.DataFrame:
        bars = self.bars.read(symbol)
        return bars if self.context is None else self.context.join(bars)

    def part(self, symbol: str, kind: str) -> str:
        return f"{self.scratch}/{kind}/{fingerprint(symbol)}"  # a file name, whatever signs the symbol has


def feature_table_path(timeframe: str, features: FeatureSet) -> str:
    return f"lake/features/{timeframe}/{features.name}-{features.digest}"


def write_features(bars: FeatureBars, features: FeatureSet, context: BarContext | None = None) -> TableVersion:
    """Bring the table of a feature set up to date with the bars; nothing happens when it is.

    New bars at the end of a symbol are computed from the state its features were left in. A symbol whose earlier bars
    changed (a correction, a backfill, another decision of quality) is computed anew. With cross-sections in the set, new
    bars at or before the newest old one make everything anew, for ranks of the past change with them.

    Readers see the last finished version until this one is (`MadeTable`). A writer that dies in between leaves a table that
    nobody takes for finished, and the next one computes everything.

    Raises:
        LeakageError: a feature changes when the future is cut off (tried on the longest symbol, and cross-sections on a few,
            before anything is written).
        StorageError: another job wrote the same table at the same time.
    """
    storage, path = bars.storage, feature_table_path(bars.timeframe, features)
    table, live = MadeTable(storage, path), LiveFeatures(storage, path)
    content = fingerprint(bars.fingerprint, features.digest, "" if context is None else context.fingerprint)
    found = table.content()
    if found == content:
        return table.latest()
    base = table.latest() if found is not None else None
    known = live.states(found) if found is not None else {}
    scratch = f"lake/scratch/{fingerprint(path)}"
    left_over = storage.list(scratch)
    job = _Job(
        bars=bars,
        context=context,
        plan=FeaturePlan(features),
        known=known,
        scratch=f"{scratch}/{uuid.uuid4().hex[:12]}",
    )
    _canary(job)
    changes = _changes(job)
    rewrite = table.begin(base=None if changes.all_anew else base)
    states = _write(table, rewrite, job, changes)
    _check_rows(table, states)
    live.write(content, states_to_bytes(states))
    version = rewrite.finish(content, {"feature_digest": features.digest, "bars_version": str(bars.version)})
    live.publish(content, version, features.columns)
    storage.delete(job.scratch)
    for name in left_over:  # of jobs that died, or lost the table to this one
        storage.delete(f"{scratch}/{name}")
    log.info("features written", table=str(version), **{k: len(v) for k, v in vars(changes).items() if k != "all_anew"})
    return version


def _canary(job: _Job) -> None:
    """Cut the future off the longest of up to 64 symbols (or the first with 2,000 bars), and off what symbols are compared by."""
    symbols = job.bars.symbols[:: -(-len(job.bars.symbols) // _CANARY_SYMBOLS)]
    longest = pl.DataFrame()
    for symbol in symbols:
        bars = job.read(symbol).head(_CANARY_BARS)
        longest = max(longest, bars, key=lambda frame: frame.height)
        if longest.height >= _CANARY_ENOUGH:
            break
    own = job.plan.per_symbol
    if longest.height > 1:
        assert_causal(own, longest, spread_cuts(longest.height, _CANARY_CUTS))
    most = max((cross.min_symbols for cross in job.plan.crosses), default=0)
    few = [compute_features(job.read(symbol).head(_CANARY_ENOUGH), own) for symbol in symbols[:most]]
    for cross in job.plan.crosses:
        values = pl.concat(rows.select("timestamp", "symbol", value=cross.of.column) for rows in few)
        assert_causal_across(cross, values, _CANARY_CUTS)


@dataclass(frozen=True)
class _Changes:
    """What is to be done about each symbol."""

    all_anew: bool
    anew: tuple[str, ...]
    """Computed from their first bar; rows they had are removed."""
    longer: tuple[str, ...]
    """Only new bars are computed."""
    same: tuple[str, ...]
    gone: tuple[str, ...]
    """Had rows, have no bars any more."""


def _changes(job: _Job) -> _Changes:
    symbols = job.bars.symbols
    everything = _Changes(all_anew=True, anew=symbols, longer=(), same=(), gone=())
    if not job.known:
        return everything

    newest = max(state.timestamp for state in job.known.values())

    def compare(row: dict[str, str]) -> dict[str, str]:
        known = job.known.get(row["symbol"])
        bars = job.read(row["symbol"])
        if known is None or not is_prefix(known, bars):
            return {**row, "change": "anew"}
        if known.bars == bars.height:
            return {**row, "change": "same"}
        overtakes = bars["timestamp"][known.bars] > newest
        return {**row, "change": "longer" if overtakes or not job.plan.crosses else "late"}

    found: dict[str, list[str]] = {"anew": [], "longer": [], "same": [], "late": []}
    for row in per_symbol(symbols).map(compare).take_all():
        found[row["change"]].append(row["symbol"])
    gone = tuple(sorted(set(job.known) - set(symbols)))
    if job.plan.crosses and (found["anew"] or found["late"] or gone):
        return everything
    if not found["longer"] and not found["same"]:
        return everything
    return _Changes(
        all_anew=False,
        anew=tuple(sorted(found["anew"])),
        longer=tuple(sorted(found["longer"])),
        same=tuple(sorted(found["same"])),
        gone=gone,
    )


def _write(table: MadeTable, rewrite: Rewrite, job: _Job, changes: _Changes) -> list[SymbolState]:
    """Write the rows; return the state of every symbol that has any."""
    from ray.data import SaveMode

    todo = (*changes.anew, *changes.longer)
    stale = [s for s in (*changes.anew, *changes.gone) if s in job.known]
    if stale and not changes.all_anew:
        with rewrite.one_commit():
            table.remove(_in("symbol", stale))
    kept = [job.known[symbol] for symbol in changes.same]
    if not todo:
        return kept
    going_on = {symbol: job.known[symbol] for symbol in changes.longer}
    with rewrite.one_commit():
        if job.plan.crosses:
            per_symbol(todo).map(functools.partial(_stage, job=job, going_on=going_on)).take_all()
            files = [job.part(symbol, "staged") + ".parquet" for symbol in todo]
            cross_sections(job.bars.storage, files, job.plan.crosses, f"{job.scratch}/crossed", ROWS_PER_MOMENTS)
            rows = functools.partial(_joined, job=job)
        else:
            rows = functools.partial(_computed, job=job, going_on=going_on)
        per_symbol(todo).map_batches(rows, batch_size=1, batch_format="pyarrow").write_delta(
            table.uri,
            mode=SaveMode.OVERWRITE if changes.all_anew and table.exists() else SaveMode.APPEND,
            partition_by=["symbol"],
            storage_options=table.options,
        )
    rewrite.check()  # else the winner may have cleared away what is read next
    return kept + [_read_state(job, symbol) for symbol in todo]


def _computed(batch: pa.Table, *, job: _Job, going_on: Mapping[str, SymbolState]) -> Iterator[pa.Table]:
    """A task of a set without cross-sections: the new rows of one symbol, a file of the table a block."""
    symbol = batch.column("symbol")[0].as_py()
    run = SymbolRun(job.read(symbol), job.plan.per_symbol, going_on.get(symbol))
    for rows in run:
        yield _arrow(rows)
    job.bars.storage.write_bytes(job.part(symbol, "state") + ".arrow", states_to_bytes([run.state]))


def _stage(row: dict[str, Any], *, job: _Job, going_on: Mapping[str, SymbolState]) -> dict[str, Any]:
    """First task of a set with cross-sections: a symbol's own features, put aside for the moments' tasks."""
    symbol, storage = row["symbol"], job.bars.storage
    run = SymbolRun(job.read(symbol), job.plan.per_symbol, going_on.get(symbol))
    storage.write_row_groups(job.part(symbol, "staged") + ".parquet", map(_arrow, run))
    storage.write_bytes(job.part(symbol, "state") + ".arrow", states_to_bytes([run.state]))
    return row


def _joined(batch: pa.Table, *, job: _Job) -> Iterator[pa.Table]:
    """Last task of a set with cross-sections: a symbol's own features and its places among the others."""
    symbol, storage = batch.column("symbol")[0].as_py(), job.bars.storage
    columns = [cross.column for cross in job.plan.crosses]
    crossed = pl.concat(
        _symbol_rows(storage, f"{job.scratch}/crossed", name, symbol)
        for name in sorted(storage.list(job.scratch, "crossed"))
    ).select("timestamp", *columns)
    final = pl.DataFrame()
    for rows in storage.read_row_groups(job.part(symbol, "staged") + ".parquet"):
        joined = rows.join(crossed, on="timestamp", how="left", maintain_order="left")
        if joined.height != rows.height:
            raise DataError(f"cross-sections of {symbol} hold a time twice; report this as a bug.", symbol=symbol)
        final = joined.select("symbol", "timestamp", *job.plan.features.columns)
        yield _arrow(final)
    state = _read_state(job, symbol)
    latest = final.tail(1).select(job.plan.features.columns).to_numpy()[0]
    whole = SymbolState(symbol, state.bars, state.timestamp, state.digest, latest, state.states)
    storage.write_bytes(job.part(symbol, "state") + ".arrow", states_to_bytes([whole]))


def _arrow(rows: pl.DataFrame) -> pa.Table:
    """With the string type that Delta tables have: Ray refuses to append polars' large strings to it."""
    table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    return table.set_column(0, "symbol", table.column("symbol").cast(pa.string()))


def _symbol_rows(storage: Storage, folder: str, name: str, symbol: str) -> pl.DataFrame:
    import pyarrow.parquet as pq

    path = storage.path(folder, name)
    frame = pl.from_arrow(pq.read_table(path, filesystem=storage.filesystem, filters=[("symbol", "=", symbol)]))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _read_state(job: _Job, symbol: str) -> SymbolState:
    return states_from_bytes(job.bars.storage.read_bytes(job.part(symbol, "state") + ".arrow"))[symbol]


def _in(column: str, values: Sequence[str]) -> str:
    """SQL text of `column in values`, quoted."""
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"


def _check_rows(table: MadeTable, states: Sequence[SymbolState]) -> None:
    due, there = sum(state.bars for state in states), table.row_count()
    if due != there:
        raise StorageError(
            f"{table.uri} holds {there:,} rows where {due:,} are due: another job wrote it at the same time, or a task's rows "
            "were written twice. It is marked unfinished, readers keep the version before; run the stage again, one job at a "
            "time, and it is written anew.",
            rows=there,
            due=due,
        )
