"""Bars for the next stage: one per symbol and time, of a named version, and never by chance from one of two sources."""

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from quantfleet.contracts import BAR_COLUMNS, BARS_SCHEMA
from quantfleet.errors import ConfigError, DataError, EmptyTableError, MissingInputError, StorageError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest import bars_path, list_symbols, read_bars

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def put(storage: Storage, source: str, symbol: str, days: list[int], price: float) -> int:
    rows = pl.DataFrame({"timestamp": [START + dt.timedelta(days=day) for day in days]}).with_columns(
        pl.lit(symbol).alias("symbol"),
        *(pl.lit(price).alias(name) for name in ("open", "high", "low", "close", "volume")),
        pl.lit(source).alias("source"),
        pl.lit(START).alias("ingested_at"),
    )
    table = LakeTable(storage, bars_path("1d"))
    written = rows.select(BARS_SCHEMA.names).to_arrow().cast(BARS_SCHEMA)
    return table.append(written, partition_by=["symbol"]).version


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


def closes(bars: pl.DataFrame) -> list[float]:
    return bars["close"].to_list()


def test_bars_come_sorted_with_the_contracts_columns(storage: Storage):
    put(storage, "s", "B/B", [1, 0], 2.0)
    put(storage, "s", "AAA", [1, 0], 1.0)
    bars = read_bars(storage, "1d", None)
    assert bars.columns == list(BAR_COLUMNS)
    assert bars.equals(bars.sort("symbol", "timestamp"))
    assert closes(bars) == [1.0, 1.0, 2.0, 2.0]
    assert closes(read_bars(storage, "1d", None, ["B/B"])) == [2.0, 2.0]


def test_a_version_is_what_it_was(storage: Storage):
    first = put(storage, "s", "AAA", [0], 1.0)
    put(storage, "s", "BBB", [0], 2.0)
    assert list_symbols(storage, "1d", first) == ("AAA",)
    assert list_symbols(storage, "1d", None) == ("AAA", "BBB")
    assert closes(read_bars(storage, "1d", first)) == [1.0]


@pytest.mark.parametrize(
    ("priority", "expected"), [(("x", "y"), [1.0, 1.0, 1.0, 2.0]), (("y", "x"), [1.0, 2.0, 2.0, 2.0])]
)
def test_the_first_listed_source_wins_where_both_have_a_bar(storage: Storage, priority, expected):
    put(storage, "x", "AAA", [0, 1, 2], 1.0)
    put(storage, "y", "AAA", [1, 2, 3], 2.0)
    assert closes(read_bars(storage, "1d", None, source_priority=priority)) == expected


def test_an_overlap_that_nobody_decides_is_an_error_that_shows_the_way(storage: Storage):
    put(storage, "x", "AAA", [0, 1, 2], 1.0)
    put(storage, "y", "AAA", [1, 2, 3], 2.0)
    for priority in ((), ("x",), ("z",)):
        with pytest.raises(
            DataError, match=r"x and y both have AAA 2024-01-02.*source_priority=\['x', 'y'\]"
        ) as caught:
            read_bars(storage, "1d", None, source_priority=priority)
        assert caught.value.fields == {"sources": ["x", "y"]}


def test_sources_that_do_not_overlap_need_no_priority(storage: Storage):
    put(storage, "x", "AAA", [0, 1], 1.0)
    put(storage, "y", "AAA", [2], 2.0)
    put(storage, "y", "BBB", [0], 3.0)
    assert closes(read_bars(storage, "1d", None)) == [1.0, 1.0, 2.0, 3.0]


def test_an_overlap_in_another_symbol_does_not_matter(storage: Storage):
    put(storage, "x", "AAA", [0], 1.0)
    put(storage, "y", "AAA", [0], 2.0)
    put(storage, "y", "BBB", [0], 3.0)
    assert closes(read_bars(storage, "1d", None, ["BBB"])) == [3.0]


def test_a_symbol_that_is_not_there_is_named_with_the_nearest_one(storage: Storage):
    put(storage, "s", "BTC/USDT", [0], 1.0)
    with pytest.raises(EmptyTableError, match=r"no bars of BTC/USD. Did you mean 'BTC/USDT'\?"):
        read_bars(storage, "1d", None, ["BTC/USDT", "BTC/USD"])


def test_a_table_or_a_version_that_is_not_there_is_named(storage: Storage):
    for asked in (lambda: read_bars(storage, "1d", None), lambda: list_symbols(storage, "1d", None)):
        with pytest.raises(MissingInputError, match="lake/bars/1d"):
            asked()
    put(storage, "s", "AAA", [0], 1.0)
    for asked in (lambda: read_bars(storage, "1d", 7), lambda: list_symbols(storage, "1d", 7)):
        with pytest.raises(StorageError, match="version 7"):
            asked()


def test_an_empty_table_is_an_error(storage: Storage):
    LakeTable(storage, bars_path("1d")).append(BARS_SCHEMA.empty_table(), partition_by=["symbol"])
    assert list_symbols(storage, "1d", None) == ()
    with pytest.raises(EmptyTableError, match="holds no bars"):
        read_bars(storage, "1d", None)


def test_a_priority_names_each_source_once(storage: Storage):
    with pytest.raises(ConfigError, match="one source twice: x, x"):
        read_bars(storage, "1d", None, source_priority=["x", "x"])
