"""Files of any vendor become bars: whatever the format, layout, names and clocks; and what is wrong in them is said."""

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake
from pydantic import SecretStr

from quantfleet.contracts import BAR_COLUMNS, SOURCES, FetchRequest, Timeframe
from quantfleet.errors import (
    ConfigError,
    EmptyTableError,
    PriceError,
    SchemaError,
    SourceError,
    StorageError,
    TimeError,
)
from quantfleet.storage import StorageConfig
from quantfleet_data.sources import FilesConfig, files

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def bars_of(symbol: str, count: int, *, first: int = 0, price: float = 10.0) -> pl.DataFrame:
    price_of = [price + i for i in range(first, first + count)]
    return pl.DataFrame(
        {
            "symbol": [symbol] * count,
            "timestamp": [START + dt.timedelta(days=i) for i in range(first, first + count)],
            "open": price_of,
            "high": [p + 1.25 for p in price_of],
            "low": [p - 1.5 for p in price_of],
            "close": [p + 0.5 for p in price_of],
            "volume": [float(i) for i in range(first, first + count)],
        },
        schema_overrides={"timestamp": pl.Datetime("us", "UTC")},
    )


TWO = pl.concat([bars_of("AAA", 5), bars_of("BBB", 4, price=50.0)])


def batches_of(path: Path | str, *, timeframe: str = "1d", now_utc: dt.datetime = NOW, **settings: Any):
    source = FilesConfig(path=str(path), **settings).build()
    return list(source.fetch(FetchRequest(Timeframe(timeframe), lambda symbol: None, now_utc)))


def read(path: Path | str, **settings: Any) -> pl.DataFrame:
    return pl.concat(batches_of(path, **settings))


def csv_of(bars: pl.DataFrame) -> str:
    return bars.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv()


# --- Formats and layouts ----------------------------------------------------------------------------------------------


def write_parquet(folder: Path) -> Path:
    TWO.write_parquet(folder / "bars.parquet")
    return folder / "bars.parquet"


def write_csv(folder: Path) -> Path:
    (folder / "bars.csv").write_text(csv_of(TWO))
    return folder / "bars.csv"


def write_gzipped_csv(folder: Path) -> Path:
    import gzip

    (folder / "bars.csv.gz").write_bytes(gzip.compress(csv_of(TWO).encode()))
    return folder / "bars.csv.gz"


def write_delta(folder: Path) -> Path:
    write_deltalake(str(folder / "table"), TWO.head(3).to_arrow())
    write_deltalake(str(folder / "table"), TWO.tail(-3).to_arrow(), mode="append", schema_mode="merge")
    return folder / "table"


def write_delta_by_symbol(folder: Path) -> Path:
    write_deltalake(str(folder / "table"), TWO.to_arrow(), partition_by=["symbol"])
    return folder / "table"


def write_file_per_symbol(folder: Path) -> Path:
    for (symbol,), own in TWO.group_by("symbol"):
        own.write_parquet(folder / f"{symbol}.parquet")
    return folder


def write_hive(folder: Path) -> Path:
    for (symbol,), own in TWO.group_by("symbol"):
        (folder / f"symbol={symbol}" / "year=2024").mkdir(parents=True)
        own.drop("symbol").write_parquet(folder / f"symbol={symbol}" / "year=2024" / "part-0.parquet")
    return folder


def write_glob(folder: Path) -> Path:
    (folder / "deep" / "er").mkdir(parents=True)
    TWO.head(5).write_parquet(folder / "deep" / "2023.parquet")
    TWO.tail(-5).write_parquet(folder / "deep" / "er" / "2024.parquet")
    (folder / "notes.csv").write_text("no bars")
    return folder / "**" / "20[!1]?.parquet"


def write_panel(folder: Path) -> Path:
    """By time, then symbol: how files of a whole market are often sorted."""
    TWO.sort("timestamp", "symbol").write_parquet(folder / "panel.parquet")
    return folder / "panel.parquet"


def write_folder_with_litter(folder: Path) -> Path:
    TWO.write_parquet(folder / "bars.parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".bars.parquet.crc").touch()
    (folder / "_tmp").mkdir()
    (folder / "_tmp" / "half.parquet").write_bytes(b"PAR1 torn")
    (folder / "README.md").touch()
    return folder


@pytest.mark.parametrize(
    "write",
    [
        write_parquet,
        write_csv,
        write_gzipped_csv,
        write_delta,
        write_delta_by_symbol,
        write_file_per_symbol,
        write_hive,
        write_glob,
        write_panel,
        write_folder_with_litter,
    ],
)
def test_every_format_and_layout_gives_the_same_bars_symbol_by_symbol(tmp_path: Path, write):
    batches = batches_of(write(tmp_path))
    assert [batch["symbol"].unique().to_list() for batch in batches] == [["AAA"], ["BBB"]]
    assert pl.concat(batches).equals(TWO)


def test_an_explicit_format_reads_files_of_any_name(tmp_path: Path):
    (tmp_path / "bars.txt").write_text(csv_of(TWO))
    assert read(tmp_path / "bars.txt", format="csv").equals(TWO)
    assert read(tmp_path / "*.txt", format="csv").equals(TWO)
    with pytest.raises(ConfigError, match=r"format of .*bars.txt cannot be told from its name"):
        read(tmp_path / "bars.txt")


def test_the_format_picks_out_of_a_mixed_folder(tmp_path: Path):
    write_parquet(tmp_path)
    (tmp_path / "other.csv").write_text(csv_of(bars_of("CCC", 2)))
    with pytest.raises(ConfigError, match="holds csv and parquet files; set `format`"):
        read(tmp_path)
    assert read(tmp_path, format="csv")["symbol"].unique().to_list() == ["CCC"]


def test_files_of_one_symbol_follow_each_other_by_name(tmp_path: Path):
    bars_of("AAA", 3, first=3).write_parquet(tmp_path / "2.parquet")
    bars_of("AAA", 3).write_parquet(tmp_path / "1.parquet")
    assert read(tmp_path).equals(bars_of("AAA", 6))


def test_a_relative_path_lies_below_the_storage_root(tmp_path: Path):
    (tmp_path / "vendor" / "eod").mkdir(parents=True)
    write_parquet(tmp_path / "vendor" / "eod")
    place = StorageConfig(root=str(tmp_path / "vendor"))
    for path in ("eod/bars.parquet", "eod", "./eod/", "*/*.parquet", "."):
        assert read(path, storage=place).equals(TWO)
    for path in ("/etc/bars.parquet", "s3://bucket/bars.parquet", "../other"):
        with pytest.raises(ConfigError, match=r"must lie below storage.root="):
            read(path, storage=place)
    with pytest.raises(SourceError, match=f"there is no file at {tmp_path}/vendor/nothing"):
        read("nothing", storage=place)
    with pytest.raises(SourceError, match=rf"\({tmp_path}/vendor/eod\) holds no bars of X"):
        read("eod", storage=place, symbols=("X",))


def test_memory_is_bounded_by_groups_of_symbols_and_batches_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    symbols = [f"S{i}" for i in range(7)]
    everything = pl.concat([bars_of(symbol, 6) for symbol in symbols])
    everything.sort("timestamp", "symbol").write_parquet(tmp_path / "panel.parquet")
    monkeypatch.setattr(files, "_GROUP_ROWS", 13)
    monkeypatch.setattr(files, "_BATCH_ROWS", 4)
    largest = []
    plain = files.VendorTable.read

    def spied(self, columns, **where):
        table = plain(self, columns, **where)
        largest.append(table.num_rows)
        return table

    monkeypatch.setattr(files.VendorTable, "read", spied)
    batches = batches_of(tmp_path / "panel.parquet")
    assert pl.concat(batches).equals(everything)
    assert max(batch.height for batch in batches) == 4
    assert largest == [12, 12, 12, 6]


def test_only_the_files_that_hold_a_symbol_are_read_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_file_per_symbol(tmp_path)
    read_files = []
    plain = files.VendorTable.read
    monkeypatch.setattr(
        files.VendorTable,
        "read",
        lambda self, *args, **where: read_files.append(self.stem) or plain(self, *args, **where),
    )
    assert read(tmp_path, symbols=("BBB",)).equals(bars_of("BBB", 4, price=50.0))
    assert read_files == ["BBB"]


# --- Names ------------------------------------------------------------------------------------------------------------


def test_their_columns_are_mapped_and_a_mapping_wins_over_an_equal_name(tmp_path: Path):
    theirs = (
        bars_of("AAA", 3).rename({"symbol": "Ticker", "timestamp": "Date"}).with_columns(adjusted=pl.col("close") / 2)
    )
    theirs.write_parquet(tmp_path / "x.parquet")
    mapped = read(tmp_path, columns={"Ticker": "symbol", "Date": "timestamp", "adjusted": "close"})
    assert mapped.columns == list(BAR_COLUMNS)
    assert mapped["close"].to_list() == [5.25, 5.75, 6.25]


def test_the_symbol_comes_from_the_config_or_the_name_of_the_file(tmp_path: Path):
    (tmp_path / "BRK.B.csv").write_text(csv_of(bars_of("x", 3).drop("symbol")))
    assert read(tmp_path / "BRK.B.csv", symbol="BERK")["symbol"].to_list() == ["BERK"] * 3
    assert read(tmp_path, symbol="US:{stem}")["symbol"].to_list() == ["US:BRK.B"] * 3


@pytest.mark.parametrize("symbol", ["000001", "NA", "TRUE", "null", "1e3", "2024-01-01"])
def test_symbols_that_look_like_something_else_stay_text(tmp_path: Path, symbol: str):
    (tmp_path / "bars.csv").write_text(csv_of(bars_of(symbol, 2)))
    assert read(tmp_path)["symbol"].to_list() == [symbol] * 2
    (tmp_path / "hive" / f"symbol={symbol}").mkdir(parents=True)
    bars_of("x", 2).drop("symbol").write_parquet(tmp_path / "hive" / f"symbol={symbol}" / "a.parquet")
    assert read(tmp_path / "hive")["symbol"].to_list() == [symbol] * 2


def test_symbols_stored_as_categories_or_numbers_are_read_as_text(tmp_path: Path):
    TWO.with_columns(pl.col("symbol").cast(pl.Categorical)).write_parquet(tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet", symbols=("BBB",)).equals(bars_of("BBB", 4, price=50.0))
    TWO.with_columns(pl.when(pl.col("symbol") == "AAA").then(1).otherwise(2).alias("symbol")).write_parquet(
        tmp_path / "n.parquet"
    )
    assert read(tmp_path / "n.parquet", symbols=("2",))["symbol"].to_list() == ["2"] * 4


def test_a_symbol_that_is_nowhere_is_an_error_with_the_nearest_one(tmp_path: Path):
    with pytest.raises(SourceError, match=r"holds no bars of AAB. Did you mean 'AAA'\?"):
        read(write_parquet(tmp_path), symbols=("AAB", "BBB"))


def test_a_market_without_volume_has_nulls(tmp_path: Path):
    TWO.drop("volume").write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")["volume"].is_null().all()
    (tmp_path / "b.csv").write_text(csv_of(TWO.with_columns(volume=pl.lit(None, dtype=pl.Float64))))
    assert read(tmp_path / "b.csv")["volume"].is_null().all()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("column", ["symbol", "timestamp", "open", "close"])
def test_a_missing_column_is_named_together_with_what_is_there(tmp_path: Path, column: str, suffix: str):
    renamed = TWO.rename({column: column.upper()})
    file = tmp_path / f"bars.{suffix}"
    if suffix == "csv":
        file.write_text(renamed.with_columns(pl.col("^(?i)timestamp$").dt.strftime("%Y-%m-%d")).write_csv())
    else:
        renamed.write_parquet(file)
    with pytest.raises(SchemaError, match=f"source 'files' .* has no column '{column}'.* It has: .*{column.upper()}"):
        read(file)


def test_a_column_missing_in_the_last_file_is_found_before_the_first_bar_is_yielded(tmp_path: Path):
    bars_of("AAA", 3).write_parquet(tmp_path / "a.parquet")
    bars_of("ZZZ", 3).drop("high").write_parquet(tmp_path / "z.parquet")
    source = FilesConfig(path=str(tmp_path)).build()
    with pytest.raises(SchemaError, match="no column 'high'"):
        next(source.fetch(FetchRequest(Timeframe("1d"), lambda symbol: None, NOW)))


def test_a_mapping_from_a_column_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SchemaError, match=r"no column 'Opne', which `columns` maps to 'open'"):
        read(write_parquet(tmp_path), columns={"Opne": "open"})


# --- Bad files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: f.with_columns(close=pl.lit(float("nan"))), PriceError, "9 rows have a close|5 rows have a close"),
        (lambda f: f.reverse(), TimeError, "timestamps are not sorted"),
        (lambda f: pl.concat([f, f.tail(1)]), TimeError, "1 duplicated timestamps"),
        (lambda f: f.clear(), EmptyTableError, "holds no bars"),
        (lambda f: f.with_columns(symbol=pl.lit(None, dtype=pl.String)), SchemaError, "'symbol' is empty in 9 rows"),
        (lambda f: f.with_columns(symbol=pl.lit("")), SchemaError, "'symbol' is empty in 9 rows"),
        (lambda f: f.with_columns(open=pl.lit("cheap")), SchemaError, "column 'open' is String"),
    ],
    ids=["nan", "unsorted", "duplicated", "empty", "no-symbol", "blank-symbol", "text-price"],
)
def test_what_is_wrong_in_a_file_is_said_with_the_source_and_never_mended(tmp_path: Path, spoil, error, message):
    spoil(TWO).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(error, match=message) as caught:
        read(tmp_path)
    assert "source 'files'" in str(caught.value)
    assert type(caught.value) is error


def test_a_bar_in_two_files_is_a_duplicate(tmp_path: Path):
    bars_of("AAA", 3).write_parquet(tmp_path / "1.parquet")
    bars_of("AAA", 3, first=2).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(TimeError, match="1 duplicated timestamps, first AAA 2024-01-03"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 this is torn", "cannot be read as parquet"),
        ("a.csv", csv_of(TWO).replace("10.0", "ten").encode(), "cannot be read as csv: .*'ten'"),
        (
            "a.csv",
            csv_of(TWO).replace("2024-01-03T00:00:00Z", "yesterday").encode(),
            "cannot be read as csv|text such as",
        ),
    ],
    ids=["torn", "text-price", "text-time"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((SchemaError, TimeError), match=message) as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_an_empty_file_among_others_is_named(tmp_path: Path):
    (tmp_path / "AAA.csv").write_text(csv_of(bars_of("x", 2).drop("symbol")))
    (tmp_path / "BBB.csv").write_text(csv_of(bars_of("x", 2).drop("symbol").clear()))
    with pytest.raises(EmptyTableError, match=r"holds no bars in .*BBB.csv"):
        read(tmp_path, symbol="{stem}")


@pytest.mark.parametrize("path", ["nothing.parquet", "nothing", "*.parquet", "nothing/**/*.csv"])
def test_a_path_without_files_is_named(tmp_path: Path, path: str):
    (tmp_path / "some.csv").touch()
    with pytest.raises(SourceError, match=r"there is no file at|holds no .* files"):
        read(tmp_path / path)


def test_a_folder_without_known_files_or_without_a_delta_table_is_named(tmp_path: Path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(SourceError, match=r"holds no .parquet"):
        read(tmp_path)
    with pytest.raises(SourceError, match="no Delta table at"):
        read(tmp_path, format="delta")


def test_an_s3_server_that_is_not_there_is_a_storage_error():
    nowhere = StorageConfig(
        root="s3://bucket/prefix",
        endpoint_url="http://127.0.0.1:9",
        access_key_id=SecretStr("a"),
        secret_access_key=SecretStr("b"),
    )
    with pytest.raises(StorageError, match="cannot be reached"):
        read("bars.parquet", storage=nowhere)


# --- Config -----------------------------------------------------------------------------------------------------------


def test_it_is_registered_and_can_be_named():
    assert SOURCES.get("files") is FilesConfig
    assert FilesConfig(path="x").source_name == "files"
    assert FilesConfig(path="x", name="vendor").source_name == "vendor"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": ""}, "path is empty"),
        ({"columns": {"Close": "klose"}}, r"maps 'Close' to 'klose', which is none of ours. Did you mean 'close'\?"),
        ({"columns": {"A": "close", "B": "close"}}, "maps two columns to one"),
        ({"columns": {"A": "symbol"}, "symbol": "X"}, "exclude each other"),
        ({"symbols": ("A", "A")}, "one symbol twice"),
        ({"time_zone": "America/NewYork"}, r"no IANA zone .* Did you mean 'America/New_York'\?"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_read(settings, message):
    with pytest.raises(ConfigError, match=message):
        FilesConfig(**({"path": "x"} | settings))


def test_only_local_and_s3_paths_are_known():
    with pytest.raises(ConfigError, match="only local paths and s3:// are known, not gs://"):
        read("gs://bucket/x")


@pytest.mark.parametrize(
    ("file", "timeframe", "symbols", "rows"),
    [
        ("cboe_vix_1d_1990_2019.parquet", "1d", 1, 7_556),
        ("stocknet_us_88stocks_1d_2012_2017.parquet", "1d", 88, 108_589),
        ("oanda_fx_gold_quotes_1h_2006_2014.parquet", "1h", 2, 102_482),
        ("binance_spot_usdt_1h_2024-01_2024-06.parquet", "1h", 65, 269_357),
    ],
)
def test_real_files_of_every_kind_of_market_arrive_whole(shared_data: Path, file, timeframe, symbols, rows):
    bars = read(shared_data / file, timeframe=timeframe)
    assert bars.equals(pl.read_parquet(shared_data / file).select(BAR_COLUMNS).sort("symbol", "timestamp"))
    assert (bars["symbol"].n_unique(), bars.height) == (symbols, rows)
