"""Bad bars through the real command: each one clear error, and the table stays at its last good version."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from support.recipes import NAIVE, small_recipe, write_recipe
from typer.testing import CliRunner

from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_jobs.cli import app


def good_bars(days: int = 10) -> pl.DataFrame:
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    time = pl.datetime_range(start, start + dt.timedelta(days=days - 1), "1d", eager=True, time_unit="us")
    close = pl.Series([100.0 + i for i in range(days)])
    return pl.DataFrame(
        {
            "symbol": ["AAA"] * days,
            "timestamp": time,
            "open": close - 0.5,
            "high": close + 1,
            "low": close - 1,
            "close": close,
            "volume": [1000.0] * days,
        }
    )


def nan_price(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.with_columns(close=pl.when(pl.int_range(pl.len()) == 4).then(float("nan")).otherwise("close"))


BAD: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str, str]] = {
    "a missing column": (lambda bars: bars.drop("close"), "SchemaError", "'close'"),
    "a NaN price": (nan_price, "PriceError", "close"),
    "unsorted times": (lambda bars: bars.reverse(), "TimeError", "sorted"),
    "a time twice": (lambda bars: pl.concat([bars[:3], bars[2:]]), "TimeError", "duplicated"),
    "naive times": (
        lambda bars: bars.with_columns(pl.col("timestamp").dt.replace_time_zone(None)),
        "TimeError",
        "naive",
    ),
    "an empty table": (lambda bars: bars.clear(), "EmptyTableError", "holds no bars"),
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    source = {"kind": "files", "path": str(tmp_path / "bars.parquet")}
    sections = {"ingest": {"timeframe": "1d", "sources": [source]}, "log": {"level": "ERROR"}}
    return write_recipe(tmp_path, small_recipe(str(tmp_path / "store"), models=NAIVE, **sections))


def ingest(recipe: Path, bars: pl.DataFrame, *more: str) -> tuple[int, str]:
    bars.write_parquet(recipe.parent / "bars.parquet")
    result = CliRunner().invoke(app, ["ingest", str(recipe), *more])
    return result.exit_code, " ".join(result.output.split())


def version(recipe: Path) -> int | None:
    table = LakeTable(Storage(StorageConfig(root=str(recipe.parent / "store"))), "lake/bars/1d")
    return table.latest().version if table.exists() else None


@pytest.mark.parametrize("what", BAD)
def test_bad_bars_are_one_clear_error_and_leave_the_table_as_it_was(what: str, recipe: Path):
    spoil, error, word = BAD[what]
    assert ingest(recipe, good_bars())[0] == 0
    before = version(recipe)

    code, output = ingest(recipe, spoil(good_bars(12)))

    assert code == 1
    assert error in output
    assert word in output
    assert "Traceback" not in output
    assert version(recipe) == before


@pytest.mark.parametrize("what", BAD)
def test_bad_bars_in_a_new_lake_leave_no_rows(what: str, recipe: Path):
    spoil, error, _ = BAD[what]

    code, output = ingest(recipe, spoil(good_bars()))

    assert code == 1
    assert error in output
    storage = Storage(StorageConfig(root=str(recipe.parent / "store")))
    table = LakeTable(storage, "lake/bars/1d")
    assert not table.exists()
    assert not storage.exists("runs", "small", "stages", "ingest.json")


def test_a_stage_before_its_time_says_what_to_run_first(recipe: Path):
    result = CliRunner().invoke(app, ["features", "compute", str(recipe)])
    assert result.exit_code == 1
    assert "has not done ingest yet" in " ".join(result.output.split())


def test_the_same_bars_twice_are_there_once_and_the_command_says_so(recipe: Path):
    ingest(recipe, good_bars())
    before = version(recipe)
    code, output = ingest(recipe, good_bars())
    assert code == 0
    assert "unchanged: 10 bars already there" in output
    assert version(recipe) == before
