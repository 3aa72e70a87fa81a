"""From a file of trades into the lake, and from the table of trades to the table of bars: idempotent, with its origin."""

import datetime as dt
import functools

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.recipes import NAIVE, small_recipe, write_recipe

from quantfleet.contracts import BAR_COLUMNS, validate_trades
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data import trade_table
from quantfleet_data.ingest import IngestConfig, ingest, read_bars, read_events
from quantfleet_data.per_symbol import in_process
from quantfleet_data.sources import FilesConfig
from quantfleet_data.trade_bars import TimeBars, bars_from_trades
from quantfleet_data.trade_table import BarsFromTrades, write_trade_bars
from quantfleet_jobs import trade_bars as job
from quantfleet_jobs.ingest import STAGE as INGEST
from quantfleet_jobs.main import perform
from quantfleet_jobs.quality import STAGE as QUALITY
from quantfleet_jobs.recipe import load_recipe
from quantfleet_jobs.run import STAGES, stages_of
from quantfleet_jobs.stage import Stage, StageOutput

TRADES, MINUTES = "freqtrade_testdata_xrpeth_trades_2019-10.parquet", "freqtrade_testdata_xrpeth_1m_2019-10.parquet"
BOOK = "bybit_xrpusdt_l2_book_500_2024-12-01.parquet"
END = dt.datetime(2019, 10, 13, 11, 20, tzinfo=dt.UTC)
NOW = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def storage(tmp_path):
    return Storage(StorageConfig(root=str(tmp_path / "lake"))).absolute()


def some_trades(rows=400, *, symbol="AAA", seed=0, every_s=7.0):
    """One trade every so many seconds, at a price that climbs and falls."""
    number = pl.int_range(rows, eager=True)
    return pl.DataFrame(
        {
            "symbol": [symbol] * rows,
            "timestamp": [
                dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=every_s * i) for i in range(rows)
            ],
            "trade_id": number.cast(pl.String),
            "price": 100.0 + ((number + seed) % 17).cast(pl.Float64),
            "amount": 1.0 + (number % 5).cast(pl.Float64),
            "side": ["buy", "sell"] * (rows // 2),
        },
        schema_overrides={"timestamp": pl.Datetime("us", "UTC")},
    )


def ingested(storage, folder, trades, name="trades"):
    path = folder / f"{name}.parquet"
    trades.write_parquet(path)
    return ingest(IngestConfig(sources=(FilesConfig(path=str(path), rows="trades", name="feed"),)), storage).after


def made(storage, version, timeframe="1m", now=NOW + dt.timedelta(days=3650), **config):
    return write_trade_bars(
        storage, version, ("feed",), timeframe, BarsFromTrades(**config), now_utc=now, run=in_process
    )


# ------------------------------------------------------------------------------------------------ files of other rows


def test_a_file_of_trades_becomes_the_trades_table(storage, shared_data):
    source = FilesConfig(path=str(shared_data / TRADES), rows="trades", columns={"id": "trade_id"}, name="freqtrade")
    report = ingest(IngestConfig(sources=(source,)), storage)
    assert (report.after.path, report.total.new) == ("lake/trades", 12_477)
    raw = pl.read_parquet(shared_data / TRADES).rename({"id": "trade_id"})
    assert_frame_equal(
        read_events(storage, "trades", None).sort("trade_id"), validate_trades(raw, where="f").sort("trade_id")
    )
    assert ingest(IngestConfig(sources=(source,)), storage).after == report.after


def test_a_file_of_book_messages_becomes_the_book_table(storage, shared_data):
    columns = {"event": "kind", "update_id": "sequence", "size": "amount"}
    source = FilesConfig(path=str(shared_data / BOOK), rows="book", columns=columns)
    report = ingest(IngestConfig(sources=(source,)), storage)
    assert (report.after.path, report.total.new) == ("lake/book", 3_966)


def test_a_csv_of_trades_keeps_ids_as_text_and_may_lack_the_side(storage, tmp_path):
    trades = some_trades(4).with_columns(trade_id=pl.Series(["007", "010", "100", "2e3"])).drop("side")
    trades.with_columns(pl.col("timestamp").dt.epoch("ms")).write_csv(tmp_path / "trades.csv")
    ingest(
        IngestConfig(sources=(FilesConfig(path=str(tmp_path / "trades.csv"), rows="trades", time_unit="ms"),)), storage
    )
    found = read_events(storage, "trades", None)
    assert found["trade_id"].to_list() == ["007", "010", "100", "2e3"]
    assert found["side"].null_count() == 4


def test_trades_called_bars_are_refused_by_the_column_they_lack(storage, tmp_path):
    some_trades(4).write_parquet(tmp_path / "trades.parquet")
    with pytest.raises(SchemaError, match="has no column 'open'"):
        ingest(IngestConfig(sources=(FilesConfig(path=str(tmp_path / "trades.parquet")),)), storage)
    with pytest.raises(ConfigError, match="columns maps 'x' to 'open', which is none of ours"):
        FilesConfig(path="x", rows="trades", columns={"x": "open"})


# ------------------------------------------------------------------------------------------------ trades to bars


def test_the_bars_of_the_table_are_those_of_the_trades_however_long_the_stretches(storage, tmp_path, monkeypatch):
    trades = pl.concat([some_trades(40_000, symbol=s, seed=i) for i, s in enumerate(("AAA", "BBB"))])
    version = ingested(storage, tmp_path, trades)
    monkeypatch.setattr(trade_table, "_STRETCH_TRADES", 15_000)  # a day has 12,343
    made(storage, version, "5m")
    expected = bars_from_trades(trades, TimeBars(timeframe="5m")).select(BAR_COLUMNS)
    assert_frame_equal(read_bars(storage, "5m", None), expected.sort("symbol", "timestamp"), check_exact=True)


def test_the_same_trades_again_change_nothing_and_a_late_one_corrects_its_bar(storage, tmp_path):
    trades = some_trades()
    first = made(storage, ingested(storage, tmp_path, trades))
    again = made(storage, first.trades)
    assert (again.bars, again.commits, again.counts.unchanged) == (first.bars, 0, first.counts.new)
    late = trades[100].with_columns(trade_id=pl.lit("late"), price=pl.lit(500.0))
    longer = pl.concat([trades, late, some_trades(480)[400:]]).sort("timestamp", maintain_order=True)
    more = made(storage, ingested(storage, tmp_path, longer))
    assert more.counts.corrected == 1
    assert more.counts.new == 9
    assert read_bars(storage, "1m", None)["high"].max() == 500.0
    assert read_bars(storage, "1m", first.bars.version)["high"].max() < 500.0


def test_bars_name_the_trades_they_were_made_of(storage, tmp_path):
    report = made(storage, ingested(storage, tmp_path, some_trades()))
    table = LakeTable(storage, report.bars.path)
    assert table.read()["source"].unique().to_list() == ["feed.trades"]
    assert table.history()[0]["trades"] == str(report.trades)


def test_a_bar_is_written_only_when_it_is_over(storage, tmp_path):
    version = ingested(storage, tmp_path, some_trades(20))  # up to 00:02:13
    assert made(storage, version).counts.new == 2
    assert made(storage, version, complete_until_utc=dt.datetime(2024, 1, 1, 0, 3, tzinfo=dt.UTC)).counts.new == 1
    early = dt.datetime(2024, 1, 1, 0, 2, 30, tzinfo=dt.UTC)
    later = Storage(StorageConfig(root=str(tmp_path / "other"))).absolute()
    version = ingested(later, tmp_path, some_trades(20))
    assert (
        made(later, version, now=early, complete_until_utc=dt.datetime(2024, 1, 1, 0, 3, tzinfo=dt.UTC)).counts.new == 2
    )


def test_trades_of_less_than_a_bar_are_an_error_that_says_what_to_set(storage, tmp_path):
    version = ingested(storage, tmp_path, some_trades(4))
    with pytest.raises(EmptyTableError, match=r"no bar of 1m is over .* Set trade_bars.complete_until_utc"):
        made(storage, version)


# ------------------------------------------------------------------------------------------------ the job


@pytest.fixture
def recipe(tmp_path, shared_data):
    sections = {
        "ingest": {
            "timeframe": "1m",
            "sources": [
                {"kind": "files", "path": str(shared_data / TRADES), "rows": "trades", "columns": {"id": "trade_id"}}
            ],
        },
        "trade_bars": {"complete_until_utc": END.isoformat()},
    }
    return write_recipe(tmp_path, small_recipe(str(tmp_path / "store"), models=list(NAIVE), name="trades", **sections))


@pytest.fixture
def without_ray(monkeypatch) -> Stage:
    monkeypatch.setattr(job, "write_trade_bars", functools.partial(write_trade_bars, run=in_process))
    stage = job.STAGE
    return Stage(
        name=stage.name, help=stage.help, needs=stage.needs, settings=stage.settings, work=stage.work, check=stage.check
    )


def test_through_ingest_and_job_the_bars_are_the_published_2469_to_the_bit(tmp_path, shared_data, recipe, without_ray):
    resolved = load_recipe(str(recipe), environ={})
    done = perform([INGEST, without_ray], resolved)
    storage = Storage(StorageConfig(root=str(tmp_path / "store")))
    bars = read_bars(storage, "1m", done["trade_bars"].outputs["version"])
    published = pl.read_parquet(shared_data / MINUTES).select(BAR_COLUMNS)
    assert bars.height == 2469
    assert_frame_equal(bars, published, check_exact=True)
    assert done["trade_bars"].outputs["trades"] == f"lake/trades@{done['ingest'].outputs['version']}"
    again = perform([INGEST, without_ray], resolved)
    assert again["trade_bars"].finished_at == done["trade_bars"].finished_at  # kept, not made again


def test_later_stages_read_the_bars_that_were_made_and_not_the_trades(recipe, without_ray):
    resolved = load_recipe(str(recipe), environ={})
    seen = {}

    def look(context):
        seen.update(context.inputs["ingest"].outputs)
        return StageOutput(outputs={}, summary="")

    perform([INGEST, without_ray, Stage(name="quality", help="", needs=("ingest",), settings=(), work=look)], resolved)
    assert seen["table"] == "lake/bars/1m"
    assert resolved.value.bars_sources == ("files.trades",)


def test_a_recipe_of_trades_has_the_stage_after_ingest_and_one_of_bars_has_not(recipe):
    with_trades = [stage.name for stage in stages_of(load_recipe(str(recipe), environ={}).value)]
    assert with_trades[:3] == ["ingest", "trade_bars", "quality"]
    assert stages_of(load_recipe("quickstart", environ={}).value) == STAGES


def test_sections_that_do_not_fit_each_other_are_refused(recipe):
    with pytest.raises(ConfigError, match=r"trade_bars makes bars of trades, and ingest.sources deliver bars"):
        load_recipe("quickstart", ["trade_bars={}"], environ={})
    lacking = load_recipe(str(recipe), ["trade_bars=null"], environ={}).value
    with pytest.raises(ConfigError, match=r"Add `trade_bars: \{\}` to make bars of them"):
        QUALITY.check(lacking)
    with pytest.raises(ConfigError, match="the recipe has no section `trade_bars`"):
        job.STAGE.check(lacking)
