"""Real files with known traps, through ingest into a table: the report on the table finds what the file holds."""

import datetime as dt

import polars as pl
import pytest

from quantfleet.contracts import Timeframe
from quantfleet.storage import Storage, StorageConfig
from quantfleet_data.ingest import IngestConfig, ingest
from quantfleet_data.per_symbol import in_process
from quantfleet_data.quality import CHECKS, QualityPolicy, inspect_bars
from quantfleet_data.quality_table import CheckedBars, inspect_table
from quantfleet_data.sources import FilesConfig

STOCKS, BINANCE = "pystock_us_stocks_pit_1d_2015-03_2016-03", "binance_spot_usdt_1h_2020-12_2021-07"
NAMED = ("AAAP", "BETR", "CMRX", "FRO", "GWPH", "HIFR", "NK", "SHAK", "XOMA")
COINS = ("BTC/USDT", "BTCST/USDT", "COCOS/USDT", "ETH/USDT", "PNT/USDT", "XRP/USDT")


def report_of(root, folder, name, timeframe, symbols, calendar):
    """Findings of a table that was ingested from the file, and those of the file itself, as comparable rows."""
    path = folder / f"{name}.parquet"
    storage = Storage(StorageConfig(root=str(root))).absolute()
    config = IngestConfig(sources=(FilesConfig(path=str(path), symbols=symbols),), timeframe=timeframe)
    made = ingest(config, storage)
    policy = QualityPolicy(calendar=calendar, **dict.fromkeys(CHECKS, "keep"))
    bars = CheckedBars(
        storage=storage, timeframe=timeframe, version=made.after.version, report="lake/quality/r.json", policy=policy
    )
    report = inspect_table(bars, run=in_process)
    raw = pl.read_parquet(path).filter(pl.col("symbol").is_in(symbols)).sort("symbol", "timestamp")
    union = raw["timestamp"].unique().sort()
    expected = [
        key(finding)
        for part in raw.partition_by("symbol", maintain_order=True)
        for finding in inspect_bars(part, policy, Timeframe(timeframe), union=union)
    ]
    return bars, report, [key(f) for symbol in report.symbols for f in symbol.findings], expected


def key(finding):
    return finding.symbol, finding.check, finding.start, finding.end, finding.bars, finding.detail


def day(*parts):
    return dt.datetime(*parts, tzinfo=dt.UTC)


def test_the_traps_of_the_stocks_are_in_the_report_on_their_table(tmp_path, shared_data):
    bars, _, found, expected = report_of(tmp_path, shared_data, STOCKS, "1d", NAMED, "union")
    assert found == expected
    named = {(symbol, check, start) for symbol, check, start, *_ in found}
    assert ("FRO", "half_adjusted", day(2016, 2, 2)) in named
    assert ("FRO", "splits", day(2016, 2, 3)) in named
    assert {symbol for symbol, check, _ in named if check == "bad_ticks"} == {"BETR", "HIFR", "NK", "SHAK"}
    assert {symbol for symbol, check, _ in named if check == "reused_tickers"} == {"AAAP"}
    assert bars.read("FRO").columns == ["symbol", "timestamp", "open", "high", "low", "close", "volume"]


def test_the_traps_of_binance_are_in_the_report_on_its_table(tmp_path, shared_data):
    _, report, found, expected = report_of(tmp_path, shared_data, BINANCE, "1h", COINS, "continuous")
    assert found == expected
    errors = {(symbol, check, start) for symbol, check, start, *_ in found if check in ("splits", "token_swaps")}
    assert errors == {
        ("BTCST/USDT", "splits", day(2021, 3, 19, 7)), ("COCOS/USDT", "token_swaps", day(2021, 1, 23, 2)),
    }  # fmt: skip
    assert len(report.market) == 6
    assert {finding.check for finding in report.market} == {"halts"}


@pytest.mark.parametrize("column", ["prev_adj_close", "previous"])
def test_the_previous_adjusted_close_is_kept_whatever_its_source_calls_it(tmp_path, make_bars, column):
    said = pl.col("close").shift(1)
    make_bars(0, 30).with_columns(said.alias(column)).write_parquet(tmp_path / "bars.parquet")
    mapped = {} if column == "prev_adj_close" else {column: "prev_adj_close"}
    storage = Storage(StorageConfig(root=str(tmp_path / "lake"))).absolute()
    source = FilesConfig(path=str(tmp_path / "bars.parquet"), columns=mapped)
    made = ingest(IngestConfig(sources=(source,)), storage)
    bars = CheckedBars(storage=storage, timeframe="1d", version=made.after.version, report="r", policy=QualityPolicy())
    raw = bars.read_raw("AAA")
    assert raw["prev_adj_close"].to_list() == raw["close"].shift(1).to_list()
    again = ingest(IngestConfig(sources=(source,)), storage)
    assert again.after == made.after
