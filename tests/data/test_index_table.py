"""The index of a lake's checked bars, and its columns beside the bars of each symbol."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from data.conftest import random_bars

from quantfleet.contracts import BARS_SCHEMA
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.index_table import IndexContext, write_index
from quantfleet_data.ingest import bars_path
from quantfleet_data.instruments import INDEX_COLUMNS, IndexConfig
from quantfleet_data.per_symbol import in_process
from quantfleet_data.quality import QualityPolicy
from quantfleet_data.quality_table import CheckedBars, inspect_table

CONFIG = IndexConfig(symbol="^EW", rebalance="day")
ROWS = 120


def checked(storage: Storage, frames: list[pl.DataFrame], **policy) -> CheckedBars:
    stamped = pl.concat(frames).with_columns(
        source=pl.lit("test"), ingested_at=pl.lit(dt.datetime(2021, 1, 1, tzinfo=dt.UTC), pl.Datetime("us", "UTC"))
    )
    rows = stamped.select(BARS_SCHEMA.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(BARS_SCHEMA)
    table = LakeTable(storage, bars_path("1d"))
    version = (table.overwrite if table.exists() else table.append)(rows, partition_by=("symbol",)).version
    bars = CheckedBars(
        storage=storage,
        timeframe="1d",
        version=version,
        report=f"lake/quality/{version}.json",
        policy=QualityPolicy(**policy),
    )
    inspect_table(bars, run=in_process)
    return bars


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


def market() -> list[pl.DataFrame]:
    return [random_bars(seed, ROWS, symbol=f"S{seed}") for seed in range(3)]


def test_an_equal_weighted_index_moves_by_the_mean_return_of_its_constituents(storage):
    frames = market()
    index = write_index(checked(storage, frames), CONFIG)
    close = LakeTable(storage, index.path).read(index.version).sort("timestamp")["close"].to_numpy()
    returns = np.mean([f["close"].to_numpy()[1:] / f["close"].to_numpy()[:-1] - 1 for f in frames], axis=0)
    assert close[1:] / close[:-1] - 1 == pytest.approx(returns[-(len(close) - 1) :])


def test_the_same_bars_again_change_nothing_and_other_bars_do(storage):
    bars = checked(storage, market())
    first = write_index(bars, CONFIG)
    assert write_index(bars, CONFIG) == first
    longer = checked(storage, [random_bars(seed, ROWS, symbol=f"S{seed}") for seed in range(4)])
    assert write_index(longer, CONFIG).version > first.version
    assert write_index(bars, IndexConfig(symbol="^PW", weighting="price")).path != first.path


def test_a_bar_that_quality_took_out_does_not_move_the_index(storage):
    frames = market()
    at = frames[1]["timestamp"][60]
    bad = pl.col("timestamp") == at
    tenth = [
        (pl.when(bad).then(pl.col(n) / 10).otherwise(pl.col(n))).alias(n) for n in ("open", "high", "low", "close")
    ]
    spoilt = checked(storage, [frames[0], frames[1].with_columns(tenth), frames[2]], splits="keep", outliers="keep")
    assert any(f.check == "bad_ticks" for f in spoilt.findings("S1"))

    index = write_index(spoilt, CONFIG)

    level = LakeTable(storage, index.path).read(index.version).sort("timestamp").filter(pl.col("timestamp") == at)
    before = (
        LakeTable(storage, index.path).read(index.version).sort("timestamp").filter(pl.col("timestamp") < at).tail(1)
    )
    assert level["close"][0] / before["close"][0] == pytest.approx(1.0, abs=0.1), "no fall by a third of 90 %"


def test_the_index_stands_beside_the_bars_at_equal_times_only(storage):
    frames = market()
    bars = checked(storage, frames)
    context = IndexContext(storage, write_index(bars, CONFIG))
    own = frames[0].with_columns(timestamp=pl.col("timestamp") + dt.timedelta(hours=(1)))
    joined = context.join(pl.concat([frames[0].tail(5), own.tail(1)]))
    assert [name for name in joined.columns if name in INDEX_COLUMNS] == list(INDEX_COLUMNS)
    assert joined["index_close"].is_null().to_list() == [False] * 5 + [True]
    other = IndexContext(storage, write_index(bars, IndexConfig(symbol="^PW", weighting="price")))
    assert context.fingerprint != other.fingerprint
