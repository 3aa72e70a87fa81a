"""What the lake says of itself: tables, sizes, versions, and what changed between two of them."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.errors import MissingInputError, SchemaError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet.storage.catalog import diff_versions, find_tables, summarise, table_versions

KEYS = ["symbol", "timestamp"]


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


def day(number: int) -> dt.datetime:
    return dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=number)


def frame(*rows: tuple[str, int, float]) -> pl.DataFrame:
    schema = {"symbol": pl.String, "timestamp": pl.Datetime("us", "UTC"), "close": pl.Float64}
    return pl.DataFrame([(symbol, day(number), close) for symbol, number, close in rows], schema=schema, orient="row")


def arrow(rows: pl.DataFrame):
    return rows.to_arrow(compat_level=pl.CompatLevel.oldest())


def test_every_delta_table_is_found_and_no_partition_or_plain_folder_is_taken_for_one(storage):
    for path in ("lake/bars/1d", "lake/features/1d/core-1234", "lake/labels/1d/5678"):
        LakeTable(storage, path).append(arrow(frame(("A", 0, 1.0))), partition_by=["symbol"])
    storage.write_text("lake/chunks/abcd/manifest.json", "{}")
    assert find_tables(storage) == ["lake/bars/1d", "lake/features/1d/core-1234", "lake/labels/1d/5678"]
    assert find_tables(storage, "lake/chunks") == []


def test_a_summary_counts_rows_symbols_and_times_of_the_version_asked_for(storage):
    table = LakeTable(storage, "lake/bars/1d")
    table.append(arrow(frame(("A", 0, 1.0), ("B", 3, 2.0))), partition_by=["symbol"])
    table.append(arrow(frame(("C", 5, 3.0))))
    first, newest = summarise(table, 0), summarise(table)
    assert (first.rows, first.symbols, first.first, first.last) == (2, ("A", "B"), day(0), day(3))
    assert (newest.version, newest.rows, newest.symbols, newest.last) == (1, 3, ("A", "B", "C"), day(5))
    assert newest.columns["timestamp"] == "timestamp[us, tz=UTC]"
    assert newest.partition_by == ("symbol",)
    assert newest.size_bytes > first.size_bytes > 0


def test_versions_tell_when_what_and_why(storage):
    table = LakeTable(storage, "t")
    table.append(arrow(frame(("A", 0, 1.0))), metadata={"source": "arch"})
    table.upsert(arrow(frame(("A", 0, 2.0), ("A", 1, 3.0))), KEYS)
    newest, first = table_versions(table)
    assert (first.version, first.operation, first.rows_added, first.provenance) == (0, "WRITE", 1, {"source": "arch"})
    assert (newest.version, newest.operation, newest.rows_added) == (1, "MERGE", 1)
    assert first.time <= newest.time


def test_a_diff_names_the_rows_and_columns_that_changed(storage):
    table = LakeTable(storage, "t")
    table.append(arrow(frame(("A", 0, 1.0), ("A", 1, 2.0), ("B", 0, 5.0))), partition_by=["symbol"])
    table.upsert(arrow(frame(("A", 1, 2.5), ("A", 2, 3.0))), KEYS)
    diff = diff_versions(table, 0, 1)
    assert (diff.added, diff.removed, diff.changed) == (1, 0, 1)
    assert diff.by_symbol == {"A": (1, 0, 1)}
    assert diff.changed_columns == {"close": 1}
    assert diff.examples == ({"symbol": "A", "timestamp": day(1), "close": (2.0, 2.5)},)
    back = diff_versions(table, 1, 0)
    assert (back.added, back.removed, back.changed) == (0, 1, 1)


def test_a_value_that_stayed_nan_or_null_has_not_changed(storage):
    table = LakeTable(storage, "t")
    rows = frame(("A", 0, float("nan")), ("A", 1, 1.0)).with_columns(volume=pl.lit(None, pl.Float64))
    table.append(arrow(rows))
    table.overwrite(arrow(rows))
    assert diff_versions(table, 0, 1).changed == 0


def test_columns_that_came_or_went_are_named(storage):
    table = LakeTable(storage, "t")
    table.append(arrow(frame(("A", 0, 1.0))))
    table.overwrite(arrow(frame(("A", 0, 1.0)).rename({"close": "price_"})))
    diff = diff_versions(table, 0, 1)
    assert (diff.new_columns, diff.lost_columns, diff.changed) == (("price_",), ("close",), 0)


def test_a_table_without_times_and_a_version_that_never_was_are_refused(storage):
    table = LakeTable(storage, "t")
    table.append(arrow(pl.DataFrame({"symbol": ["A"], "value": [1.0]})))
    table.append(arrow(pl.DataFrame({"symbol": ["B"], "value": [1.0]})))
    with pytest.raises(SchemaError, match="no column `timestamp`"):
        diff_versions(table, 0, 1)
    with pytest.raises(MissingInputError, match="no readable version 9"):
        diff_versions(table, 0, 9)


ROWS = st.dictionaries(
    st.tuples(st.sampled_from("AB"), st.integers(0, 4)), st.floats(0, 1, allow_nan=False), min_size=1, max_size=8
)


@settings(max_examples=15)
@given(before=ROWS, after=ROWS)
def test_a_diff_equals_the_difference_of_the_rows(tmp_path_factory, before, after):
    table = LakeTable(Storage(StorageConfig(root=str(tmp_path_factory.mktemp("diff")))), "t")
    for rows in (before, after):
        table.overwrite(arrow(frame(*((s, t, close) for (s, t), close in rows.items()))), partition_by=["symbol"])
    diff = diff_versions(table, 0, 1)
    assert diff.added == len(after.keys() - before.keys())
    assert diff.removed == len(before.keys() - after.keys())
    assert diff.changed == sum(before[key] != after[key] for key in before.keys() & after.keys())
