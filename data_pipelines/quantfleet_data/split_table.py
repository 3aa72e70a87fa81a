"""The split of a whole label table: planned, applied and proved with memory bounded by the distinct bars, however many symbols.

For every rule of a split two rows speak for all rows of a bar: the one that is known last, and one whose end is unknown. What
neither touches, none of them touches. So tasks take some symbols each, one after the other, and hand on these rows a bar (and
segment); the driver does the same with what they hand on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from quantfleet.contracts import SEGMENTS, Segment, SplitPlan, SplitterConfig, Timeframe
from quantfleet.storage import LakeTable
from quantfleet_data.per_symbol import Run, on_ray
from quantfleet_data.splits import SegmentCounts, check_split, count_segments, require_rows, segment_column

__all__ = ["TableSplit", "split_table"]

_MERGE_ROWS = 1_000_000
"""Rows that wait before they are reduced to two a bar."""
_SYMBOLS_A_TASK = 16
"""So many fewer rows travel to the driver where symbols share their bars."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSplit:
    """A plan, and what it makes of the table."""

    plan: SplitPlan
    rows: dict[Segment, int]
    left_out: int
    """Rows that are purged or embargoed."""


@dataclass(frozen=True)
class _Work:
    table: LakeTable
    version: int
    plan: SplitPlan | None = None


def split_table(
    table: LakeTable,
    version: int,
    splitter: SplitterConfig,
    *,
    horizon_bars: int,
    timeframe: Timeframe,
    run: Run = on_ray,
) -> TableSplit:
    """Plan the split of a label table and prove it clean.

    A splitter that reads columns of its own (`splitter.columns`: the regime) gets all rows at once.

    Args:
        table, version: labels with symbol, timestamp, t_end, partitioned by symbol.
        run: where the tasks, one a symbol, are done.
    Raises:
        LeakageError: the purge is shorter than the horizon, a segment would be empty, or rows overlap; names the first pair.
        EmptyTableError: a segment gets no rows. SchemaError: the table lacks a column.
    """
    symbols = sorted({partition["symbol"] for partition in table.partitions(version)})
    groups = [tuple(symbols[i : i + _SYMBOLS_A_TASK]) for i in range(0, len(symbols), _SYMBOLS_A_TASK)]
    if splitter.columns:
        labels = table.read(version, columns=["symbol", "timestamp", "t_end", *splitter.columns])
    else:
        labels = _last_known(run(_reach, groups, _Work(table, version)), ["timestamp"])
    plan = splitter.plan(labels.sort("symbol", "timestamp"), horizon_bars=horizon_bars, timeframe=timeframe)
    del labels
    rows: Counter[str | None] = Counter()
    inside: Counter[str] = Counter()

    def counted() -> Iterator[pl.DataFrame]:
        for part, (more_rows, more_inside) in run(_segments, groups, _Work(table, version, plan)):
            rows.update(more_rows)
            inside.update(more_inside)
            yield part

    assigned = _last_known(counted(), ["timestamp", "segment"])
    require_rows((rows, inside), plan)
    check_split(assigned, plan)
    return TableSplit(plan=plan, rows={s: rows[s] for s in SEGMENTS}, left_out=rows[None])


def _times(symbol: str, work: _Work) -> pl.DataFrame:
    return work.table.read(work.version, columns=["symbol", "timestamp", "t_end"], symbols=(symbol,))


def _reach(symbols: tuple[str, ...], work: _Work) -> pl.DataFrame:
    return _last_known((_times(symbol, work) for symbol in symbols), ["timestamp"])


def _segments(symbols: tuple[str, ...], work: _Work) -> tuple[pl.DataFrame, SegmentCounts]:
    """The rows that speak for these symbols, with their segments, and how many rows there are."""
    plan = work.plan
    assert plan is not None
    rows: Counter[str | None] = Counter()
    inside: Counter[str] = Counter()

    def assigned() -> Iterator[pl.DataFrame]:
        for symbol in symbols:
            part = _times(symbol, work).with_columns(segment_column(plan))
            more_rows, more_inside = count_segments(part, plan)
            rows.update(more_rows)
            inside.update(more_inside)
            yield part.drop_nulls("segment")

    return _last_known(assigned(), ["timestamp", "segment"]), (rows, inside)


def _last_known(parts: Iterable[pl.DataFrame], by: Sequence[str]) -> pl.DataFrame:
    """Of the rows alike in `by` the one that is known last and one that is not known; the first symbol wins ties."""

    def reduced(frames: list[pl.DataFrame]) -> pl.DataFrame:
        order = pl.concat(frames).sort("t_end", "symbol", descending=[True, False])
        unknown = order["t_end"].is_null().alias("unknown")
        kept = order.with_columns(unknown).unique([*by, "unknown"], keep="first", maintain_order=True)
        return kept.drop("unknown")

    kept: list[pl.DataFrame] = []
    waiting = 0
    for part in parts:
        kept.append(part)
        waiting += part.height
        if waiting > _MERGE_ROWS:
            kept, waiting = [reduced(kept)], 0
    return reduced(kept)
