"""Lake tables: versions that stay readable, one copy of every key, and writers that lose nothing to each other."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.errors import DataError, MissingInputError, SchemaError, StorageError
from quantfleet.storage import LakeTable, Storage, StorageConfig, TableVersion

ON_BOTH = pytest.mark.parametrize("storage", ["local", pytest.param("s3", marks=pytest.mark.services)], indirect=True)
SCHEMA = pa.schema([("symbol", pa.string()), ("t", pa.int64()), ("value", pa.float64())])


def rows(*drawn: tuple[str, int, float]) -> pa.Table:
    columns = list(zip(*drawn, strict=True)) or [(), (), ()]
    return pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)


def content(frame: pl.DataFrame) -> list[tuple[str, int, float]]:
    return sorted(frame.select(SCHEMA.names).rows())


@ON_BOTH
def test_a_table_is_appended_to_replaced_and_read_at_every_version(storage):
    table = LakeTable(storage, "lake/t")
    assert not table.exists()
    first = table.append(rows(("a", 1, 1.0)))
    second = table.append(rows(("b", 2, 2.0), ("c", 3, 3.0)))
    third = table.overwrite(rows(("d", 4, 4.0)))
    assert [first, second, third] == [TableVersion("lake/t", v) for v in (0, 1, 2)]
    assert table.exists()
    assert table.latest() == third
    assert [content(table.read(v)) for v in (0, 1, 2, None)] == [
        [("a", 1, 1.0)],
        [("a", 1, 1.0), ("b", 2, 2.0), ("c", 3, 3.0)],
        [("d", 4, 4.0)],
        [("d", 4, 4.0)],
    ]


@ON_BOTH
def test_an_upsert_replaces_known_keys_and_inserts_new_ones_in_one_version(storage):
    table = LakeTable(storage, "t")
    table.append(rows(("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, 3.0)), partition_by=["symbol"])
    made = table.upsert(rows(("a", 2, 20.0), ("b", 2, 40.0)), ["symbol", "t"])
    assert made.version == 1
    assert content(table.read()) == [("a", 1, 1.0), ("a", 2, 20.0), ("b", 1, 3.0), ("b", 2, 40.0)]
    assert table.upsert(rows(("a", 2, 20.0)), ["symbol", "t"]).version == 2
    assert len(table.read()) == 4


@ON_BOTH
def test_symbols_with_slashes_and_signs_are_partitions_like_any_other(storage):
    symbols = ["BTC/USDT", "A B", "50%", "ü=x", "x:y?z#", "a+b&c"]
    table = LakeTable(storage, "t")
    table.append(rows(*((s, i, 0.0) for i, s in enumerate(symbols))), partition_by=["symbol"])
    table.upsert(rows(("BTC/USDT", 0, 5.0)), ["symbol", "t"])
    assert content(table.read()) == sorted((s, i, 5.0 if i == 0 else 0.0) for i, s in enumerate(symbols))
    for i, symbol in enumerate(symbols):
        assert table.read(where=pc.field("symbol") == symbol)["t"].to_list() == [i]


@ON_BOTH
def test_a_filter_reads_only_the_files_it_needs(storage):
    table = LakeTable(storage, "t")
    table.append(rows(("a", 1, 1.0), ("b", 2, 2.0)), partition_by=["symbol"])
    table.append(rows(("a", 100, 3.0)), partition_by=["symbol"])
    storage.delete("t", "symbol=b")  # whoever touches this file fails
    assert content(table.read(where=pc.field("symbol") == "a")) == [("a", 1, 1.0), ("a", 100, 3.0)]
    with pytest.raises(MissingInputError, match="a file of version 1 is gone, deleted or vacuumed"):
        table.read()


def test_a_filter_on_a_column_prunes_files_by_their_statistics(local):
    table = LakeTable(local, "t")
    for t in (1, 100):
        table.append(rows(("a", t, 0.0)))
    for path in Path(local.uri("t")).glob("*.parquet"):
        if 100 in pl.read_parquet(path)["t"]:
            path.unlink()
    assert content(table.read(where=pc.field("t") < 50)) == [("a", 1, 0.0)]


@ON_BOTH
def test_only_the_columns_asked_for_are_read(storage):
    table = LakeTable(storage, "t")
    table.append(rows(("a", 1, 1.0)), partition_by=["symbol"])
    assert table.read(columns=["value", "symbol"]).columns == ["value", "symbol"]
    assert table.read(columns=["value"], where=pc.field("symbol") == "b").shape == (0, 1)


@ON_BOTH
def test_properties_are_recorded_with_a_version_of_their_own(storage):
    table = LakeTable(storage, "t")
    table.append(rows(("a", 1, 1.0)))
    assert table.properties() == {}
    assert table.set_properties({"bars_version": "7", "hash": "a=b c"}).version == 1
    table.set_properties({"bars_version": "8"})
    assert table.properties() == {"bars_version": "8", "hash": "a=b c"}
    assert table.properties(1) == {"bars_version": "7", "hash": "a=b c"}
    assert table.properties(0) == {}


@ON_BOTH
def test_history_is_newest_first_and_carries_what_each_commit_said(storage):
    table = LakeTable(storage, "t")
    table.append(rows(("a", 1, 1.0)), metadata={"stage": "ingest"})
    table.upsert(rows(("a", 1, 2.0)), ["symbol", "t"], metadata={"stage": "mend"})
    table.overwrite(rows(("a", 1, 3.0)), metadata={"stage": "reset"})
    assert [(c["version"], c["stage"]) for c in table.history()] == [(2, "reset"), (1, "mend"), (0, "ingest")]


@ON_BOTH
def test_a_missing_table_is_a_missing_input_for_every_question(storage):
    table = LakeTable(storage, "nowhere")
    calls: list[Callable[[], object]] = [
        table.latest, table.read, table.history, table.properties, lambda: table.read(3),
        lambda: table.upsert(rows(("a", 1, 1.0)), ["symbol"]), lambda: table.set_properties({"a": "b"}),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(MissingInputError, match=r"there is no table at .*nowhere"):
            call()
    assert storage.list() == []


@ON_BOTH
@pytest.mark.parametrize("version", [2, 99, -1])
def test_a_missing_version_is_a_missing_input_that_names_the_newest(storage, version):
    table = LakeTable(storage, "t")
    table.append(rows(("a", 1, 1.0)))
    table.append(rows(("a", 2, 1.0)))
    with pytest.raises(MissingInputError, match=rf"t has no readable version {version}: the newest is 1"):
        table.read(version)


def test_unknown_columns_are_named_with_the_nearest_and_the_known_ones(local):
    table = LakeTable(local, "t")
    table.append(rows(("a", 1, 1.0)))
    with pytest.raises(SchemaError, match=r"has no column 'valeu'\. Did you mean 'value'\? It has: symbol, t, value"):
        table.read(columns=["t", "valeu"])
    with pytest.raises(SchemaError, match=r"cannot be filtered: .*nope.* It has: symbol, t, value"):
        table.read(where=pc.field("nope") == 1)


def test_rows_of_another_shape_are_refused_and_the_table_stays(local):
    table = LakeTable(local, "t")
    table.append(rows(("a", 1, 1.0)))
    with pytest.raises(SchemaError, match="has other columns than the rows"):
        table.append(pa.table({"other": [1]}))
    assert table.latest().version == 0


def test_an_upsert_that_repeats_its_own_keys_is_refused(local):
    table = LakeTable(local, "t")
    table.append(rows(("a", 1, 1.0)))
    with pytest.raises(DataError, match=r"1 of 3 rows for .*/t repeat the symbol, t of another; keep one of each"):
        table.upsert(rows(("b", 1, 1.0), ("c", 1, 1.0), ("b", 1, 2.0)), ["symbol", "t"])
    assert content(table.read()) == [("a", 1, 1.0)]


@pytest.mark.parametrize("key", ["source", "target", "Symbol", "x-y", "a b", "select"])
def test_key_columns_may_have_any_name(local, key):
    table = LakeTable(local, "t")
    table.append(pa.table({key: ["a", "b"], "value": [1, 2]}))
    table.upsert(pa.table({key: ["b", "c"], "value": [20, 30]}), [key])
    assert table.read().sort(key).rows() == [("a", 1), ("b", 20), ("c", 30)]


@settings(max_examples=15)
@given(st.lists(st.dictionaries(st.tuples(st.sampled_from("ab"), st.integers(0, 4)), st.floats(-5, 5)), max_size=5))
def test_any_series_of_upserts_ends_with_the_last_value_of_each_key(tmp_path_factory, batches):
    table = LakeTable(Storage(StorageConfig(root=str(tmp_path_factory.mktemp("lake")))), "t")
    table.append(SCHEMA.empty_table(), partition_by=["symbol"])
    expected: dict[tuple[str, int], float] = {}
    for batch in batches:
        table.upsert(rows(*((s, t, v) for (s, t), v in batch.items())), ["symbol", "t"])
        expected |= batch
    assert content(table.read()) == sorted((s, t, v) for (s, t), v in expected.items())


@pytest.mark.parametrize(
    ("storage", "partition_by"),
    [("local", []), ("local", ["symbol"]), pytest.param("s3", ["symbol"], marks=pytest.mark.services)],
    indirect=["storage"],
)
def test_four_writers_at_once_lose_nothing_and_duplicate_nothing(storage, partition_by):
    table = LakeTable(storage, "t")
    table.append(SCHEMA.empty_table(), partition_by=partition_by)

    def write(writer: int) -> list[int]:
        own = LakeTable(storage, "t")
        made = []
        for batch in range(2):
            shared = [("shared", batch * 3 + i, float(writer)) for i in range(6)]
            mine = [(f"writer {writer}", batch, float(batch))]
            made.append(own.upsert(rows(*shared, *mine), ["symbol", "t"]).version)
        return made

    with ThreadPoolExecutor(4) as pool:
        versions = [v for made in pool.map(write, range(4)) for v in made]
    found = table.read()
    assert sorted(versions) == list(range(1, 9))
    assert found.filter(symbol="shared")["t"].sort().to_list() == list(range(9))
    assert content(found.filter(pl.col("symbol") != "shared")) == [
        (f"writer {w}", b, float(b)) for w in range(4) for b in range(2)
    ]


@ON_BOTH
def test_writers_that_race_to_create_a_table_all_get_in_and_know_their_version(storage):
    def write(writer: int) -> int:
        return LakeTable(storage, "t").append(rows((f"w{writer}", writer, 0.0)), partition_by=["symbol"]).version

    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(write, range(4)))
    table = LakeTable(storage, "t")
    assert sorted(versions) == [0, 1, 2, 3]
    assert content(table.read()) == [(f"w{w}", w, 0.0) for w in range(4)]
    for writer, version in enumerate(versions):
        new = set(content(table.read(version))) - (set(content(table.read(version - 1))) if version else set())
        assert new == {(f"w{writer}", writer, 0.0)}


def test_a_commit_that_never_gets_through_gives_up_with_one_error(local, monkeypatch):
    from deltalake.exceptions import CommitFailedError

    table, tries = LakeTable(local, "t"), []

    def lose(*_args: object, **_options: object) -> None:
        tries.append(1)
        raise CommitFailedError("another writer was faster")

    table.append(rows(("a", 1, 1.0)))
    monkeypatch.setattr("quantfleet.storage.delta.write_deltalake", lose)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with pytest.raises(StorageError, match="12 commits in a row lost to other writers: another writer was faster"):
        table.append(rows(("b", 1, 1.0)))
    assert len(tries) == 12
    assert content(table.read()) == [("a", 1, 1.0)]


def test_a_table_version_is_written_as_path_and_number():
    assert str(TableVersion("lake/bars/1d", 7)) == "lake/bars/1d@7"
