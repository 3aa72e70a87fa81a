"""One symbol's rows of a lake table as a stream of blocks in order of time, each row group decoded once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quantfleet.errors import SchemaError
from quantfleet.storage import LakeTable
from quantfleet.storage.store import translated_errors

__all__ = ["TimedRows", "symbol_blocks"]

_BUFFER_BYTES = 1_000_000
"""How much of a column's bytes is read at a time."""


def symbol_blocks(
    table: LakeTable, version: int, symbol: str, columns: Sequence[str], *, block_rows: int
) -> Iterator[pl.DataFrame]:
    """Yield `timestamp` and the columns of one symbol, sorted by time, at most `block_rows` rows at a time.

    Row groups are read in order of their first timestamp; rows are given once no later row group can hold an earlier one. Files
    may lie in any order, and may overlap in time after a merge.

    Memory: some blocks, and whole row groups only where their rows are not in order of time or groups overlap. A group
    without statistics overlaps all.

    Raises: SchemaError: a column is missing. StorageError: a file cannot be read.
    """
    own = pc.field("symbol") == symbol
    names = ["timestamp", *(c for c in columns if c != "timestamp")]
    with translated_errors(table.uri):
        dataset = table.dataset(version, symbols=(symbol,))
        missing = [c for c in ("symbol", *names) if c not in dataset.schema.names]
        if missing:
            raise SchemaError(f"{table.uri} lacks {', '.join(missing)}; compute it again with the recipe's settings.")
        fragments = dataset.get_fragments(filter=own)
        groups = [group for f in fragments for group in f.split_by_row_group(own, schema=dataset.schema)]
    wanted = pa.schema([dataset.schema.field(name) for name in names])
    starts = {group: _first_time(group) for group in groups}
    groups.sort(key=lambda group: starts[group])
    held: pl.DataFrame | None = None
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        for piece, last in _pieces(table.uri, group, wanted, symbol, block_rows):
            held = piece if held is None or not held.height else pl.concat([held, piece])
            held = held if held["timestamp"].is_sorted() else held.sort("timestamp")
            safe = held.height
            if following is not None:
                safe = int(held["timestamp"].search_sorted(starts[following], side="left"))
            if not last:  # what comes of this group is later than this piece, not than what was held
                safe = min(safe, int(held["timestamp"].search_sorted(piece["timestamp"][-1], side="right")))
            for first in range(0, safe, block_rows):
                yield held[first : min(first + block_rows, safe)]
            held = held[safe:]
    if held is not None and held.height:
        yield from held.iter_slices(block_rows)


def _pieces(
    uri: str, group: Any, schema: pa.Schema, symbol: str, block_rows: int
) -> Iterator[tuple[pl.DataFrame, bool]]:
    """A row group in pieces in order of time, and whether each is the last; one piece where its rows are in no order.

    Read through `iter_batches`, which decodes a batch at a time; a dataset's scanner decodes the row group first.
    """
    with translated_errors(uri), group.open() as stream:
        file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        stamps = _own(file, group, pa.schema([schema.field("timestamp")]), symbol, file.metadata.num_rows)
        times = pl.concat([frame["timestamp"] for frame in stamps])
        if not times.is_sorted():
            whole = list(_own(file, group, schema, symbol, block_rows))
            yield pl.concat(whole).sort("timestamp"), True
            return
        left = len(times)
        for frame in _own(file, group, schema, symbol, block_rows):
            left -= frame.height
            if frame.height:
                yield frame, left == 0


def _own(file: pq.ParquetFile, group: Any, schema: pa.Schema, symbol: str, rows: int) -> Iterator[pl.DataFrame]:
    """A row group's rows of one symbol, a batch at a time; files of a partition hold no other symbol's, and no column of it."""
    named = "symbol" in file.schema_arrow.names
    columns = [*schema.names, "symbol"] if named else schema.names
    for batch in file.iter_batches(
        rows, row_groups=[g.id for g in group.row_groups], columns=columns, use_threads=False
    ):
        own = batch.filter(pc.field("symbol") == symbol) if named else batch
        yield _frame(pa.Table.from_batches([own]).select(schema.names).cast(schema))


def _frame(rows: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _first_time(group: Any) -> dt.datetime:
    """Earliest timestamp of a row group by its statistics; the beginning of time where it has none."""
    statistics = (group.row_groups[0].statistics or {}).get("timestamp")
    if not statistics or statistics.get("min") is None:
        return dt.datetime.min.replace(tzinfo=dt.UTC)
    first = statistics["min"]
    assert isinstance(first, dt.datetime)
    return first if first.tzinfo is not None else first.replace(tzinfo=dt.UTC)


class TimedRows:
    """Reads a stream of blocks up to a time, whatever their borders."""

    def __init__(self, blocks: Iterator[pl.DataFrame]) -> None:
        self._blocks = blocks
        self._held: pl.DataFrame | None = None
        self._ended = False

    def until(self, last: dt.datetime | None) -> pl.DataFrame | None:
        """Rows not given yet with timestamp <= `last`, or all that are left when None; None: the stream never had a row."""
        parts = [] if self._held is None else [self._held]
        while not self._ended and (
            last is None or not parts or not parts[-1].height or parts[-1]["timestamp"][-1] <= last
        ):
            block = next(self._blocks, None)
            self._ended = block is None
            if block is not None:
                parts.append(block)
        if not parts:
            return None
        rows = pl.concat(parts)
        cut = rows.height if last is None else int(rows["timestamp"].search_sorted(last, side="right"))
        self._held = rows[cut:]
        return rows[:cut]
