"""Reading a lake table for chunks: one symbol's rows in order of time from files in any order, and rows as tensors."""

import datetime as dt
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.errors import MissingInputError, SchemaError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.chunks.reading import TimedRows, symbol_blocks
from quantfleet_data.chunks.tensors import read_row_groups, row_groups

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def frame(hours: list[int], symbol: str = "A") -> pl.DataFrame:
    stamps = pl.Series([START + dt.timedelta(hours=h) for h in hours], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"symbol": [symbol] * len(hours), "timestamp": stamps, "v": [float(h) for h in hours]})


def hours_of(blocks: list[pl.DataFrame]) -> list[int]:
    return [int(v) for block in blocks for v in block["v"]]


@settings(max_examples=40)
@given(
    hours=st.lists(st.integers(0, 300), min_size=1, max_size=60, unique=True), cuts=st.lists(st.integers(0, 60), max_size=4),
    group=st.integers(1, 20), block=st.integers(1, 15), shuffled=st.booleans(),
)  # fmt: skip
def test_a_symbols_rows_come_in_order_of_time_once_each_however_the_files_lie(
    tmp_path_factory, hours, cuts, group, block, shuffled
):
    """Appends may overlap in time, as merges leave them; other symbols' rows lie between."""
    hours = hours if shuffled else sorted(hours)
    folder = tmp_path_factory.mktemp("lake")
    edges = sorted({0, len(hours), *(min(c, len(hours)) for c in cuts)})
    for low, high in pairwise(edges):
        part = pl.concat([frame(hours[low:high]), frame([1, 2, 3], "B")])
        write_deltalake(folder / "t", part.to_arrow(), mode="append", writer_properties=_groups_of(group))
    table = LakeTable(Storage(StorageConfig(root=str(folder))), "t")
    blocks = list(symbol_blocks(table, table.latest().version, "A", ["v"], block_rows=block))
    assert hours_of(blocks) == sorted(hours)
    assert all(1 <= b.height <= block for b in blocks)


def _groups_of(rows: int) -> object:
    from deltalake import WriterProperties

    return WriterProperties(max_row_group_size=rows)


def test_row_groups_are_read_one_at_a_time(tmp_path, monkeypatch):
    table = LakeTable(Storage(StorageConfig(root=str(tmp_path))), "t")
    write_deltalake(tmp_path / "t", frame(list(range(100))).to_arrow(), writer_properties=_groups_of(10))
    blocks = symbol_blocks(table, 0, "A", ["v"], block_rows=1000)
    assert next(blocks).height == 10
    assert hours_of(list(blocks)) == list(range(10, 100))


def test_a_column_that_is_not_there_is_named(tmp_path):
    table = LakeTable(Storage(StorageConfig(root=str(tmp_path))), "t")
    table.append(frame([1, 2]).to_arrow())
    with pytest.raises(SchemaError, match="t lacks w; compute it again"):
        next(symbol_blocks(table, 0, "A", ["v", "w"], block_rows=5))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.lists(st.integers(0, 60), max_size=5))
def test_rows_up_to_a_time_come_whatever_the_blocks(sizes, asked):
    edges = np.cumsum([0, *sizes]).tolist()
    rows = TimedRows(iter([frame(list(range(a, b))) for a, b in pairwise(edges)]))
    given_so_far: list[int] = []
    for hour in sorted(asked):
        found = rows.until(START + dt.timedelta(hours=hour))
        given_so_far += hours_of([found])
        assert given_so_far == list(range(min(hour + 1, edges[-1])))
    assert given_so_far + hours_of([rows.until(None)]) == list(range(edges[-1]))
    assert TimedRows(iter([])).until(None) is None


def test_row_groups_travel_by_name_and_become_tensors_each_row_once(tmp_path):
    storage = Storage(StorageConfig(root=str(tmp_path)))
    table = LakeTable(storage, "lake/t")
    for low in (0, 50):
        rows = frame(list(range(low, low + 50)), symbol="AB"[low // 50]).with_columns(n=pl.col("v").cast(pl.Int64))
        gap = rows.with_columns(v=pl.when(pl.col("v") == 7).then(None).otherwise(pl.col("v")))
        table.append(gap.to_arrow(), partition_by=["symbol"])
    groups = row_groups(table, table.latest().version)
    assert sum(group["rows"] for group in groups) == 100
    read = np.concatenate([t.numpy() for t in read_row_groups(storage, groups, ["n", "v"])])
    assert read.dtype == np.float32
    expected = sorted(range(100))
    assert sorted(read[:, 0].tolist()) == expected
    assert np.isnan(read[read[:, 0] == 7, 1]).all()
    assert (read[read[:, 0] != 7, 0] == read[read[:, 0] != 7, 1]).all()
    with pytest.raises(SchemaError, match="lacks nothing; it has"):
        list(read_row_groups(storage, groups, ["nothing"]))
    storage.delete(groups[0]["path"])
    with pytest.raises(MissingInputError):
        list(read_row_groups(storage, groups, ["v"]))


def test_text_is_no_feature(tmp_path):
    pq.write_table(pa.table({"name": ["a", "b"]}), tmp_path / "f.parquet")
    storage = Storage(StorageConfig(root=str(tmp_path)))
    with pytest.raises(SchemaError, match="'name' is string, which is no number"):
        list(read_row_groups(storage, [{"path": "f.parquet", "group": 0, "rows": 2}], ["name"]))
