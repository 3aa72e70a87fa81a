"""A table's split, planned and proved from two rows a bar, is the split of all its rows."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import SEGMENTS, Timeframe
from quantfleet.errors import LeakageError, QuantfleetError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data import split_table as module
from quantfleet_data.per_symbol import in_process
from quantfleet_data.split_table import split_table
from quantfleet_data.splits import PurgedKFold, TimeSplit, assign_segments, check_split

DAY = Timeframe("1d")
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
UTC = pl.Datetime("us", "UTC")


def labels(seed: int, symbols: int, days: int, horizon: int) -> pl.DataFrame:
    """Symbols with gaps, listed late and delisted early; labels end `horizon` bars of the symbol later, or are unknown."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(symbols):
        first, last = sorted(rng.integers(0, days, 2)) if number else (0, days)
        t = np.flatnonzero(rng.random(days) < 0.8)
        t = t[(t >= first) & (t <= last)] if number else np.arange(days)
        ends = [START + dt.timedelta(int(t[i + horizon])) if i + horizon < len(t) else None for i in range(len(t))]
        stamps = [START + dt.timedelta(int(one)) for one in t]
        schema = {"symbol": pl.String, "timestamp": UTC, "t_end": UTC}
        parts.append(
            pl.DataFrame({"symbol": [f"S{number}"] * len(t), "timestamp": stamps, "t_end": ends}, schema=schema)
        )
    return pl.concat(parts).sort("symbol", "timestamp")


def table_of(rows: pl.DataFrame, folder) -> LakeTable:
    table = LakeTable(Storage(StorageConfig(root=str(folder))), "labels")
    table.append(rows.to_arrow(compat_level=pl.CompatLevel.oldest()), partition_by=["symbol"])
    return table


SPLITTERS = st.sampled_from([TimeSplit(), TimeSplit(embargo_bars=3), PurgedKFold(n_splits=4, fold=1, embargo_bars=2)])


def test_a_symbol_delisted_behind_a_test_block_does_not_hide_how_far_the_others_reach(tmp_path):
    days, horizon, splitter = 40, 5, PurgedKFold(n_splits=4, fold=1)
    whole = labels(0, 1, days, horizon)
    end = splitter.plan(whole, horizon_bars=horizon, timeframe=DAY).test[0].end
    gone = whole.filter(pl.col("timestamp") < end).with_columns(symbol=pl.lit("GONE"))
    unknown = pl.col("timestamp") >= end - dt.timedelta(days=horizon)
    gone = gone.with_columns(t_end=pl.when(unknown).then(None).otherwise("t_end"))
    rows = pl.concat([gone, whole]).sort("symbol", "timestamp")

    found = split_table(table_of(rows, tmp_path), 0, splitter, horizon_bars=horizon, timeframe=DAY, run=in_process)

    assert found.plan == splitter.plan(rows, horizon_bars=horizon, timeframe=DAY)
    check_split(assign_segments(rows, found.plan), found.plan)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), symbols=st.integers(1, 5), horizon=st.integers(1, 6), splitter=SPLITTERS)
def test_two_rows_a_bar_give_the_plan_and_the_counts_of_all_rows(tmp_path_factory, seed, symbols, horizon, splitter):
    rows = labels(seed, symbols, 80, horizon)
    table = table_of(rows, tmp_path_factory.mktemp("split"))

    found = split_table(table, 0, splitter, horizon_bars=horizon, timeframe=DAY, run=in_process)

    plan = splitter.plan(rows, horizon_bars=horizon, timeframe=DAY)
    assigned = assign_segments(rows, plan)
    check_split(assigned, plan)
    counts = dict(assigned.group_by("segment").len().iter_rows())
    assert found.plan == plan
    assert found.rows == {segment: counts.get(segment, 0) for segment in SEGMENTS}
    assert found.left_out == counts.get(None, 0)


def test_a_leak_in_one_row_of_one_symbol_is_found_among_the_reduced_rows(tmp_path, monkeypatch):
    rows = labels(1, 4, 80, 2)
    honest = module.segment_column
    one_row = (pl.col("symbol") == "S0") & (pl.col("timestamp") == dt.datetime(2020, 2, 10, tzinfo=dt.UTC))
    late = pl.lit(dt.datetime(2020, 3, 15, tzinfo=dt.UTC)).cast(UTC)
    table = table_of(rows.with_columns(t_end=pl.when(one_row).then(late).otherwise("t_end")), tmp_path)
    split_table(table, 0, TimeSplit(), horizon_bars=2, timeframe=DAY, run=in_process)  # purged: no leak

    def careless(plan):
        return pl.when(one_row).then(pl.lit("train")).otherwise(honest(plan)).alias("segment")

    monkeypatch.setattr(module, "segment_column", careless)
    with pytest.raises(LeakageError, match="S0 t=2020-02-10"):
        split_table(table, 0, TimeSplit(), horizon_bars=2, timeframe=DAY, run=in_process)


@pytest.mark.parametrize("group", [1, 2, 16])
def test_what_travels_and_what_waits_is_bounded_by_the_distinct_bars(tmp_path, monkeypatch, group):
    table = table_of(labels(2, 5, 60, 1), tmp_path)
    whole = split_table(table, 0, TimeSplit(), horizon_bars=1, timeframe=DAY, run=in_process)
    sizes: list[int] = []
    travelled: list[int] = []
    reduce = pl.concat
    monkeypatch.setattr(module, "_SYMBOLS_A_TASK", group)
    monkeypatch.setattr(module, "_MERGE_ROWS", 60)
    monkeypatch.setattr(
        module.pl, "concat", lambda frames: sizes.append(sum(f.height for f in frames)) or reduce(frames)
    )

    def watched(work, items, shared):
        for result in in_process(work, items, shared):
            travelled.append((result if isinstance(result, pl.DataFrame) else result[0]).height)
            yield result

    assert split_table(table, 0, TimeSplit(), horizon_bars=1, timeframe=DAY, run=watched) == whole
    assert max(sizes) <= 60 + 2 * 60 + 60
    assert max(travelled) <= 2 * 60


def test_a_purge_that_is_too_short_is_refused(tmp_path):
    table = table_of(labels(3, 2, 60, 5), tmp_path)
    with pytest.raises(QuantfleetError, match=r"split.purge_bars=2 is shorter than the longest label horizon, 5 bars"):
        split_table(table, 0, TimeSplit(purge_bars=2), horizon_bars=5, timeframe=DAY, run=in_process)
