"""Ingest: every bar once, corrections as new versions, bad input refused whole, and no version without news."""

import datetime as dt
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.config import load_config
from quantfleet.config.plain import to_plain
from quantfleet.contracts import BARS_SCHEMA, FetchRequest, Source, SourceConfig
from quantfleet.errors import (
    ConfigError,
    EmptyTableError,
    OutputExistsError,
    PriceError,
    SchemaError,
    SourceError,
    TimeError,
)
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest import IngestConfig, IngestProgress, RowCounts, bars_path, ingest, list_symbols, read_bars
from quantfleet_data.sources import ArchDailyConfig, CcxtConfig, FilesConfig

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
KEYS = ["source", "symbol", "timestamp"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed(SourceConfig):
    """Hands over the batches it was given; an exception among them is raised in its place."""

    batches: tuple[pl.DataFrame | Exception, ...]
    name: str = "feed"
    seen: Callable[[FetchRequest], None] = lambda request: None

    @property
    def source_name(self) -> str:
        return self.name

    def build(self) -> Source:
        return _Feed(self)


class _Feed(Source):
    def __init__(self, config: Feed) -> None:
        self.config = config

    def fetch(self, request: FetchRequest) -> Iterator[pl.DataFrame]:
        self.config.seen(request)
        for batch in self.config.batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch


def bars_of(symbol: str, count: int, *, first: int = 0, price: float = 10.0) -> pl.DataFrame:
    price_of = [price + i for i in range(first, first + count)]
    return pl.DataFrame(
        {
            "symbol": [symbol] * count,
            "timestamp": [START + dt.timedelta(days=i) for i in range(first, first + count)],
            "open": price_of,
            "high": [p + 1.0 for p in price_of],
            "low": [p - 1.0 for p in price_of],
            "close": price_of,
            "volume": [None] * count,
        },
        schema_overrides={"timestamp": pl.Datetime("us", "UTC"), "volume": pl.Float64},
    )


def config_of(*batches: pl.DataFrame | Exception, commit_rows: int = 50_000, **feed) -> IngestConfig:
    return IngestConfig(sources=(Feed(batches=batches, **feed),), commit_rows=commit_rows)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


def table_in(storage: Storage) -> LakeTable:
    return LakeTable(storage, bars_path("1d"))


def version_of(storage: Storage) -> int:
    return table_in(storage).latest().version


# --- Once, and only what is news --------------------------------------------------------------------------------------


def test_the_same_ingest_twice_leaves_one_copy_and_says_so(storage: Storage):
    config = IngestConfig(sources=(ArchDailyConfig(),))
    first = ingest(config, storage)
    second = ingest(config, storage)
    assert first.changed
    assert first.before is None
    assert first.total == RowCounts(new=10_062)
    assert not second.changed
    assert second.before == second.after == first.after
    assert second.total == RowCounts(unchanged=10_062)
    assert second.summary == f"unchanged: 10062 bars already there (lake/bars/1d@{first.after.version})"
    table = table_in(storage).read()
    assert table.height == table.unique(KEYS).height == 10_062


def test_only_new_bars_are_written_when_a_source_has_grown(storage: Storage):
    ingest(config_of(bars_of("AAA", 5)), storage, now_utc=NOW)
    later = NOW + dt.timedelta(days=1)
    report = ingest(config_of(bars_of("AAA", 8)), storage, now_utc=later)
    assert report.counts == {"feed": {"AAA": RowCounts(new=3, unchanged=5)}}
    assert report.commits == 1
    table = table_in(storage).read().sort("timestamp")
    assert table["ingested_at"].to_list() == [NOW] * 5 + [later] * 3
    assert read_bars(storage, "1d", None).equals(bars_of("AAA", 8))


def test_a_correction_is_a_new_version_and_the_old_bar_stays_readable(storage: Storage):
    before = ingest(config_of(bars_of("AAA", 5), bars_of("BBB", 5)), storage, now_utc=NOW).after
    corrected = bars_of("AAA", 5).with_columns(
        close=pl.when(pl.col("open") == 12.0).then(12.5).otherwise(pl.col("close")),
        volume=pl.when(pl.col("open") == 13.0).then(7.0).otherwise(None),
    )
    report = ingest(config_of(corrected, bars_of("BBB", 5)), storage, now_utc=NOW)
    assert report.counts["feed"] == {"AAA": RowCounts(corrected=2, unchanged=3), "BBB": RowCounts(unchanged=5)}
    assert report.after.version == before.version + 1
    assert read_bars(storage, "1d", report.after.version, ["AAA"]).equals(corrected)
    assert read_bars(storage, "1d", before.version, ["AAA"]).equals(bars_of("AAA", 5))
    commit = table_in(storage).history()[0]
    assert {key: commit[key] for key in ("stage", "source", "new", "corrected")} == {
        "stage": "ingest",
        "source": "feed",
        "new": "0",
        "corrected": "2",
    }


def test_a_volume_that_comes_later_or_goes_is_a_correction_and_a_null_that_stays_is_none(storage: Storage):
    without, given_ = bars_of("AAA", 1), bars_of("AAA", 1).with_columns(volume=pl.lit(3.0))
    fates = [
        ingest(config_of(batch), storage, now_utc=NOW).total for batch in (without, without, given_, given_, without)
    ]
    assert [(total.new, total.corrected, total.unchanged) for total in fates] == [
        (1, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (0, 0, 1),
        (0, 1, 0),
    ]


def test_sources_do_not_touch_each_others_bars(storage: Storage):
    ingest(config_of(bars_of("AAA", 3), name="one"), storage, now_utc=NOW)
    report = ingest(config_of(bars_of("AAA", 3, price=99.0), name="two"), storage, now_utc=NOW)
    assert report.total == RowCounts(new=3)
    assert table_in(storage).read().height == 6


@pytest.mark.parametrize(
    "symbol",
    ["BTC/USDT", "BTC/USDT:USDT-240628", "^GSPC", "BRK.B", "50% OFF", "A=B&C", "Zürich", "a\\b", "x%2Fy", "..", "NaN"],
)
def test_symbols_of_any_spelling_come_back_as_they_went(storage: Storage, symbol: str):
    config = config_of(bars_of(symbol, 2), bars_of("AAA", 2))
    ingest(config, storage, now_utc=NOW)
    assert list_symbols(storage, "1d", None) == tuple(sorted((symbol, "AAA")))
    assert read_bars(storage, "1d", None, [symbol]).equals(bars_of(symbol, 2))
    assert not ingest(config, storage, now_utc=NOW).changed
    corrected = ingest(config_of(bars_of(symbol, 2, price=20.0)), storage, now_utc=NOW)
    assert corrected.total == RowCounts(corrected=2)
    assert table_in(storage).read().height == 4


def test_the_table_has_the_contracts_columns_and_is_partitioned_by_symbol(storage: Storage):
    ingest(config_of(bars_of("AAA", 2), bars_of("B/B", 2)), storage, now_utc=NOW)
    assert table_in(storage).read().columns == BARS_SCHEMA.names
    assert [name for name in storage.list("lake/bars/1d") if "=" in name] == ["symbol=AAA", "symbol=B%2FB"]


def test_small_batches_share_a_commit_and_a_large_one_is_not_torn(storage: Storage):
    pages = [bars_of("AAA", 10, first=10 * i) for i in range(7)]
    assert ingest(config_of(*pages, commit_rows=30), storage, now_utc=NOW).commits == 3
    assert ingest(config_of(bars_of("BBB", 90), commit_rows=30), storage, now_utc=NOW).commits == 1


def test_what_a_source_said_last_about_a_bar_counts(storage: Storage):
    ingest(config_of(bars_of("AAA", 3), bars_of("AAA", 3, first=1, price=50.0)), storage, now_utc=NOW)
    assert read_bars(storage, "1d", None)["close"].to_list() == [10.0, 51.0, 52.0, 53.0]


def test_a_source_is_told_the_newest_bar_of_each_symbol_and_of_itself_only(storage: Storage):
    asked: dict[str, dt.datetime | None] = {}

    def note(request: FetchRequest) -> None:
        asked.update({symbol: request.last_known(symbol) for symbol in ("AAA", "B/B", "CCC")})

    ingest(config_of(bars_of("AAA", 9), name="other"), storage, now_utc=NOW)
    ingest(config_of(bars_of("AAA", 3), bars_of("B/B", 5), seen=note), storage, now_utc=NOW)
    assert asked == {"AAA": None, "B/B": None, "CCC": None}
    ingest(config_of(bars_of("AAA", 3), seen=note), storage, now_utc=NOW)
    assert asked == {"AAA": START + dt.timedelta(days=2), "B/B": START + dt.timedelta(days=4), "CCC": None}


def test_progress_is_told_after_every_batch(storage: Storage):
    told: list[IngestProgress] = []
    ingest(config_of(bars_of("AAA", 3), bars_of("BBB", 4), commit_rows=4), storage, now_utc=NOW, progress=told.append)
    assert [(p.source, p.symbol, p.reached_utc, p.received, p.committed) for p in told] == [
        ("feed", "AAA", START + dt.timedelta(days=2), 3, 0),
        ("feed", "BBB", START + dt.timedelta(days=3), 7, 7),
    ]


def test_an_ingest_that_is_stopped_keeps_what_came_and_a_rerun_completes(storage: Storage):
    batches = [bars_of("AAA", 10, first=10 * i) for i in range(5)]
    told: list[IngestProgress] = []
    report = ingest(config_of(*batches), storage, now_utc=NOW, progress=told.append, stop=lambda: len(told) == 2)
    assert report.total == RowCounts(new=20)
    assert ingest(config_of(*batches), storage, now_utc=NOW).total == RowCounts(new=30, unchanged=20)


SPLITS = st.lists(
    st.tuples(st.sampled_from(["A/A", "BBB"]), st.integers(0, 19), st.integers(1, 20)), min_size=1, max_size=8
)


@settings(max_examples=25, deadline=None)
@given(runs=st.lists(SPLITS, min_size=1, max_size=3), commit_rows=st.integers(1, 60))
def test_however_bars_are_cut_repeated_and_committed_the_table_is_the_set_of_them(runs, commit_rows):
    whole = {"A/A": bars_of("A/A", 20), "BBB": bars_of("BBB", 20, price=70.0)}
    expected = pl.concat(whole.values()).clear()
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(StorageConfig(root=folder))
        for splits in runs:
            batches = [whole[symbol][first : first + count] for symbol, first, count in splits]
            report = ingest(config_of(*batches, commit_rows=commit_rows), storage, now_utc=NOW)
            wanted = pl.concat([expected, *batches]).unique(["symbol", "timestamp"]).sort("symbol", "timestamp")
            assert report.total.new == wanted.height - expected.height
            assert report.total.corrected == 0
            assert report.changed == (wanted.height > expected.height)
            expected = wanted
        table = table_in(storage).read()
        assert table.height == expected.height
        assert read_bars(storage, "1d", None).equals(expected)


# --- Bad input --------------------------------------------------------------------------------------------------------


def spoilt(**columns: pl.Expr) -> pl.DataFrame:
    return bars_of("AAA", 4, first=5).with_columns(**columns)


def third(column: str, value: float | None) -> pl.Expr:
    return pl.when(pl.int_range(pl.len()) == 2).then(pl.lit(value, dtype=pl.Float64)).otherwise(pl.col(column))


BAD = {
    "nan-price": (spoilt(close=third("close", float("nan"))), PriceError, "1 rows have a close that is NaN"),
    "null-price": (spoilt(open=third("open", None)), PriceError, "1 rows have a open"),
    "infinite-price": (spoilt(high=third("high", float("inf"))), PriceError, "1 rows have a high"),
    "negative-price": (spoilt(low=third("low", -1.0)), PriceError, "1 rows have a low"),
    "nan-volume": (spoilt(volume=third("volume", float("nan"))), PriceError, "1 rows have a volume"),
    "unsorted": (bars_of("AAA", 4, first=5).reverse(), TimeError, "timestamps are not sorted"),
    "duplicated": (pl.concat([bars_of("AAA", 4), bars_of("AAA", 4).tail(1)]), TimeError, "1 duplicated timestamps"),
    "interleaved": (
        pl.concat([bars_of("AAA", 1), bars_of("BBB", 1), bars_of("AAA", 1, first=1)]),
        TimeError,
        "rows of one symbol are not together",
    ),
    "naive": (spoilt(timestamp=pl.col("timestamp").dt.replace_time_zone(None)), TimeError, "timestamps are naive"),
    "no-midnight": (spoilt(timestamp=pl.col("timestamp").dt.offset_by("9h")), TimeError, "do not open at 00:00 UTC"),
    "still-open": (bars_of("AAA", 800), TimeError, "69 of 800 bars are still open"),
    "empty": (bars_of("AAA", 0), EmptyTableError, "holds no bars"),
    "missing-column": (bars_of("AAA", 4).drop("volume"), SchemaError, "has no column 'volume'"),
    "text-price": (spoilt(close=pl.lit("cheap")), SchemaError, "column 'close' is String"),
    "null-symbol": (spoilt(symbol=pl.lit(None, dtype=pl.String)), SchemaError, "symbol is null in 4 rows"),
    "empty-symbol": (spoilt(symbol=pl.lit("")), SchemaError, "the symbol is an empty text"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error_that_names_the_source_and_the_table_stays_as_it_was(storage: Storage, case: str):
    bad, error, message = BAD[case]
    ingest(config_of(bars_of("AAA", 5)), storage, now_utc=NOW)
    version = version_of(storage)
    with pytest.raises(error, match=f"source 'feed'.*{message}") as caught:
        ingest(config_of(bad), storage, now_utc=NOW)
    assert type(caught.value) is error
    assert version_of(storage) == version
    assert read_bars(storage, "1d", None).equals(bars_of("AAA", 5))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_makes_no_table(storage: Storage, case: str):
    bad, error, _ = BAD[case]
    with pytest.raises(error):
        ingest(config_of(bad), storage, now_utc=NOW)
    assert storage.list("lake/bars") == []


@pytest.mark.parametrize("end", [SourceError("the exchange died"), BAD["nan-price"][0]], ids=["dies", "goes-bad"])
def test_good_batches_before_a_failure_are_kept_and_a_rerun_completes(storage: Storage, end):
    with pytest.raises((SourceError, PriceError)):
        ingest(config_of(bars_of("AAA", 5), bars_of("BBB", 2), end), storage, now_utc=NOW)
    assert read_bars(storage, "1d", None).equals(pl.concat([bars_of("AAA", 5), bars_of("BBB", 2)]))
    report = ingest(config_of(bars_of("AAA", 5), bars_of("BBB", 6)), storage, now_utc=NOW)
    assert report.total == RowCounts(new=4, unchanged=7)
    assert read_bars(storage, "1d", None).equals(pl.concat([bars_of("AAA", 5), bars_of("BBB", 6)]))


def test_a_source_without_a_word_is_an_error_unless_the_table_has_its_bars(storage: Storage):
    with pytest.raises(EmptyTableError, match="source 'feed' delivered no bars, and the table has none of it"):
        ingest(config_of(), storage, now_utc=NOW)
    ingest(config_of(bars_of("AAA", 2), name="other"), storage, now_utc=NOW)
    with pytest.raises(EmptyTableError):
        ingest(config_of(), storage, now_utc=NOW)
    ingest(config_of(bars_of("AAA", 2)), storage, now_utc=NOW)
    assert not ingest(config_of(), storage, now_utc=NOW).changed


def test_a_place_taken_by_something_else_is_left_alone(storage: Storage):
    foreign = LakeTable(storage, bars_path("1d"))
    foreign.append(pa.table({"loss": [0.5]}))
    with pytest.raises(OutputExistsError, match="is a table of loss, not of bars"):
        ingest(config_of(bars_of("AAA", 2)), storage, now_utc=NOW)
    assert foreign.read().to_dicts() == [{"loss": 0.5}]
    storage.write_text("lake/bars/1h/notes.txt", "mine")
    with pytest.raises(OutputExistsError, match="is no Delta table, yet not empty"):
        ingest(IngestConfig(timeframe="1h", sources=(ArchDailyConfig(),)), storage)


def test_a_naive_now_is_refused(storage: Storage):
    with pytest.raises(ConfigError, match=r"now_utc=.* is naive"):
        ingest(config_of(bars_of("AAA", 2)), storage, now_utc=dt.datetime(2026, 1, 1))


# --- Config -----------------------------------------------------------------------------------------------------------

RECIPE = """
timeframe: 1h
sources:
  - kind: files
    path: vendor/*.csv
    columns: {Date: timestamp, Ticker: symbol}
    time_zone: America/New_York
    storage: {root: "s3://market-data/raw", endpoint_url: "http://127.0.0.1:7480"}
  - kind: ccxt
    exchange: binance
    symbols: [BTC/USDT, ETH/USDT]
    since_utc: 2021-01-01T00:00:00Z
    options: {fetchMarkets: {types: [spot]}}
"""


def test_a_recipe_becomes_typed_sources(tmp_path: Path):
    (tmp_path / "ingest.yaml").write_text(RECIPE)
    config = load_config(
        IngestConfig, file=tmp_path / "ingest.yaml", environ={}, plugins=["quantfleet_data.sources"]
    ).value
    assert config == IngestConfig(
        timeframe="1h",
        sources=(
            FilesConfig(
                path="vendor/*.csv",
                columns={"Date": "timestamp", "Ticker": "symbol"},
                time_zone="America/New_York",
                storage=StorageConfig(root="s3://market-data/raw", endpoint_url="http://127.0.0.1:7480"),
            ),
            CcxtConfig(
                exchange="binance",
                symbols=("BTC/USDT", "ETH/USDT"),
                since_utc=dt.datetime(2021, 1, 1, tzinfo=dt.UTC),
                options={"fetchMarkets": {"types": ["spot"]}},
            ),
        ),
    )


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"sources": ()}, "ingest.sources is empty"),
        ({"sources": (FilesConfig(path="a"), FilesConfig(path="b"))}, "2 sources are called 'files'"),
        ({"timeframe": "daily"}, "timeframe 'daily'"),
        ({"commit_rows": 0}, "commit_rows=0"),
    ],
)
def test_a_wrong_ingest_is_refused_by_name(settings_, message):
    with pytest.raises(ConfigError, match=message):
        IngestConfig(**({"sources": (ArchDailyConfig(),)} | settings_))


def test_a_report_can_be_stored_as_plain_values(storage: Storage):
    plain = to_plain(ingest(config_of(bars_of("AAA", 2)), storage, now_utc=NOW))
    assert json.loads(json.dumps(plain)) == {
        "timeframe": "1d",
        "before": None,
        "after": {"path": "lake/bars/1d", "version": 1},
        "commits": 1,
        "counts": {"feed": {"AAA": {"new": 2, "corrected": 0, "unchanged": 0}}},
        "noun": "bars",
    }


def test_the_table_lies_where_its_timeframe_says():
    assert bars_path("5m") == "lake/bars/5m"
    with pytest.raises(ConfigError, match=r"timeframe '../x'"):
        bars_path("../x")
