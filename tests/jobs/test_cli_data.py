"""`quantfleet data`: the lake as a newcomer looks at it."""

import datetime as dt
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from data.conftest import random_bars
from typer.testing import CliRunner

from quantfleet.contracts import BARS_SCHEMA, PRICE_COLUMNS
from quantfleet.storage import LakeTable, MadeTable, Storage, StorageConfig
from quantfleet_data.features import feature_set
from quantfleet_data.instruments import InstrumentFile, InstrumentsConfig, load_instruments, write_instruments
from quantfleet_jobs.cli import app

DAY = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    table = LakeTable(Storage(StorageConfig(root=str(tmp_path))), "lake/bars/1d")
    rows = pl.DataFrame({"symbol": ["BTC/USDT"] * 2, "timestamp": [DAY, DAY + dt.timedelta(1)], "close": [1.0, 2.0]})
    table.append(rows.to_arrow(compat_level=pl.CompatLevel.oldest()), partition_by=["symbol"])
    changed = rows.tail(1).with_columns(close=pl.lit(2.5))
    table.upsert(changed.to_arrow(compat_level=pl.CompatLevel.oldest()), ["symbol", "timestamp"])
    return tmp_path


def said(*arguments: str, code: int = 0, group: str = "data") -> str:
    result = CliRunner().invoke(app, [group, *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_ls_shows_every_table_with_rows_symbols_and_times(root: Path):
    assert "lake/bars/1d │ 1 │ 2 │ 1 │ 2024-01-01 │ 2024-01-02" in said("ls", "--root", str(root))


def test_an_empty_lake_says_how_to_fill_it(tmp_path: Path):
    assert "`quantfleet run quickstart` makes some" in said("ls", "--root", str(tmp_path))


@pytest.mark.parametrize("name", ["lake/bars/1d", "bars/1d", "bars"])
def test_a_table_answers_to_every_unmistakable_part_of_its_path(root: Path, name: str):
    told = said("describe", name, "--root", str(root))
    assert "lake/bars/1d, version 1" in told
    assert "1: BTC/USDT" in told
    assert "timestamp[us, tz=UTC]" in told


def test_versions_and_diff_tell_what_changed(root: Path):
    assert "MERGE" in said("versions", "bars/1d", "--root", str(root))
    told = said("diff", "bars/1d", "0", "--root", str(root))
    assert "0 rows added, 0 removed, 1 changed" in told
    assert "BTC/USDT 2024-01-02: close 2 -> 2.5" in told


def test_a_feature_table_whose_job_died_is_called_unfinished_with_the_version_to_read(root: Path):
    table = MadeTable(Storage(StorageConfig(root=str(root))), "lake/features/1d/core-1")
    rows = pa.table({"symbol": ["A"], "value": [1.0]})
    rewrite = table.begin()
    with rewrite.one_commit():
        table.append(rows, partition_by=["symbol"])
    assert "unfinished" in said("describe", "core-1", "--root", str(root)), "its first write"
    version = rewrite.finish("x", {}).version
    assert "unfinished" not in said("describe", "core-1", "--root", str(root))
    table.begin()
    assert f"the last finished one is {version}" in said("describe", "core-1", "--root", str(root))
    assert f"{version + 1} (unfinished)" in said("ls", "--root", str(root))
    assert "unfinished" not in said("describe", "bars/1d", "--root", str(root))


def test_quality_needs_no_recipe_counts_what_is_wrong_and_writes_its_page(root: Path):
    scale = pl.when(pl.int_range(pl.len()) >= 60).then(0.1).otherwise(1.0)
    tables = [random_bars(seed, 120, symbol=symbol) for seed, symbol in enumerate("ABC")]
    tables[1] = tables[1].with_columns(pl.col(PRICE_COLUMNS) * scale)  # ten new shares for each of B
    now = pl.lit(dt.datetime(2024, 1, 1, tzinfo=dt.UTC), pl.Datetime("us", "UTC"))
    rows = pl.concat(tables).with_columns(source=pl.lit("test"), ingested_at=now).select(BARS_SCHEMA.names)
    table = LakeTable(Storage(StorageConfig(root=str(root))), "lake/bars/4h")
    table.append(rows.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(BARS_SCHEMA), partition_by=["symbol"])
    told = said("quality", "bars/4h", "--calendar", "union", "--root", str(root))
    assert "lake/bars/4h@0: 360 bars of 3 symbols" in told
    assert "splits │ 1" in told
    page = Path(told.split("Page: ")[1].replace(" ", ""))
    assert "splits" in page.read_text()
    assert "is none of continuous, sessions, union" in said(
        "quality", "bars/4h", "--calendar", "weekly", "--root", str(root), code=1
    )


def test_the_universe_of_a_past_day_keeps_what_was_delisted_later(root: Path):
    assert "Give a recipe an `instruments` section" in said("universe", "2008-09-12", "--root", str(root), code=1)
    rows = pl.DataFrame(
        {
            "index": ["SP500"] * 2,
            "symbol": ["LEHMQ", "AAPL"],
            "start": [dt.date(1998, 1, 12), dt.date(1982, 11, 30)],
            "end": [dt.date(2008, 9, 17), None],
        }
    )
    rows.write_parquet(root / "members.parquet")
    file = InstrumentFile(path=str(root / "members.parquet"))
    storage = Storage(StorageConfig(root=str(root)))
    write_instruments(storage, load_instruments(InstrumentsConfig(memberships=(file,))))
    assert "2 symbols were in SP500 on 2008-09-12 AAPL, LEHMQ" in said(
        "universe", "2008-09-12", "--index", "SP500", "--root", str(root)
    )
    assert "1 symbols were in SP500 on 2008-09-17 AAPL" in said(
        "universe", "2008-09-17", "--index", "SP500", "--root", str(root)
    )
    assert "'yesterday' is no day; write it as 2008-09-15." in said(
        "universe", "yesterday", "--root", str(root), code=1
    )


def test_compact_joins_files_and_changes_no_row(root: Path):
    table = LakeTable(Storage(StorageConfig(root=str(root))), "lake/bars/1d")
    for day in (2, 3):
        row = pl.DataFrame({"symbol": ["BTC/USDT"], "timestamp": [DAY + dt.timedelta(day)], "close": [1.0]})
        table.append(row.to_arrow(compat_level=pl.CompatLevel.oldest()), partition_by=["symbol"])
    before, files = table.read().sort("timestamp"), table.files().height
    told = said("compact", "bars/1d", "--root", str(root))
    assert f"lake/bars/1d@4: {files} files became 1" in told
    assert table.read().sort("timestamp").equals(before)


def test_the_columns_of_a_named_feature_set_are_listed_and_a_misspelt_one_is_answered_with_the_nearest():
    told = said("list", "--set", "signals", group="features")
    for feature in feature_set("signals").features:
        assert feature.column in told
    assert "Did you mean 'signals'?" in said("list", "--set", "signal", group="features", code=1)


def test_a_misspelt_table_is_answered_with_the_nearest_one(root: Path):
    assert "Did you mean 'lake/bars/1d'?" in said("describe", "lake/bars/1h", "--root", str(root), code=1)
