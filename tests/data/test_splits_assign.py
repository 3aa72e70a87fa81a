"""Assigning rows to segments: purged by label interval, and proved clean from the rows themselves."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import SEGMENTS, SplitPlan, Timeframe
from quantfleet.errors import EmptyTableError, LeakageError, SchemaError
from quantfleet_data.labels import (
    Direction,
    ForwardReturn,
    LabelsConfig,
    RealisedVolatility,
    TripleBarrier,
    compute_labels,
)
from quantfleet_data.splits import TimeSplit, assign_segments, check_split

DAY = Timeframe("1d")
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
LABELS = LabelsConfig(
    families=(
        ForwardReturn(horizons_bars=(1, 4)),
        Direction(horizons_bars=(4,)),
        RealisedVolatility(horizons_bars=(4,)),
        TripleBarrier(horizons_bars=(7,), volatility_bars=3),
    )
)


def market(make_bars, *, rows=200, symbols=2, seed=1, missing=()):
    """Labels of several symbols; symbol i lacks the bars with the numbers missing[i]."""
    tables = []
    for i in range(symbols):
        bars = make_bars(seed + i, rows, symbol=f"S{i}")
        lost = missing[i] if i < len(missing) else ()
        bars = bars.with_row_index().filter(~pl.col("index").is_in(list(lost))).drop("index")
        tables.append(compute_labels(bars, LABELS, DAY))
    return pl.concat(tables)


def split(labels, splitter=None):
    plan = (splitter or TimeSplit()).plan(labels, horizon_bars=LABELS.horizon_bars, timeframe=DAY)
    return assign_segments(labels, plan), plan


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(120, 260),
    symbols=st.integers(1, 3),
    validation=st.floats(0.15, 0.4),
    test=st.floats(0.1, 0.4),
    extra_purge=st.integers(0, 5),
    embargo=st.integers(0, 5),
    missing=st.lists(st.sets(st.integers(0, 250), max_size=60), max_size=3),
)
def test_no_label_interval_touches_a_later_segment_and_every_row_is_in_one_segment_at_most(
    make_bars, seed, rows, symbols, validation, test, extra_purge, embargo, missing
):
    labels = market(make_bars, rows=rows, symbols=symbols, seed=seed, missing=missing)
    splitter = TimeSplit(
        validation_fraction=validation,
        test_fraction=test,
        purge_bars=LABELS.horizon_bars + extra_purge,
        embargo_bars=embargo,
    )
    assigned, plan = split(labels, splitter)
    check_split(assigned, plan)
    assert assigned.drop("segment").equals(labels)
    assert set(assigned["segment"].drop_nulls()) == set(SEGMENTS)
    rows_of = {s: assigned.filter(pl.col("segment") == s).to_dicts() for s in SEGMENTS}
    first = {s: min(row["timestamp"] for row in rows_of[s]) for s in SEGMENTS}
    for segment, later in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for row in rows_of[segment]:
            assert row["timestamp"] < row["t_end"] <= first[later]
            gap = (first[later] - row["timestamp"]) // DAY.delta
            assert gap > LABELS.horizon_bars + extra_purge + embargo


def test_a_row_whose_symbol_pauses_is_purged_though_its_count_of_bars_would_pass(make_bars):
    """S0 lacks bars 120..139; validation starts at bar 140. Its bar 119 sees its next bar only there."""
    labels = market(make_bars, missing=[range(120, 140)])
    assigned, plan = split(labels, TimeSplit(validation_fraction=0.15, test_fraction=0.15))
    assert plan.interval("validation").start == labels["timestamp"].min() + 140 * DAY.delta
    train = assigned.filter(pl.col("segment") == "train").group_by("symbol").agg(pl.col("timestamp").max())
    last = {symbol: (time - START) // DAY.delta for symbol, time in train.iter_rows()}
    assert last == {"S0": 119 - LABELS.horizon_bars, "S1": 139 - LABELS.horizon_bars}


def test_purged_and_embargoed_rows_have_no_segment(make_bars):
    assigned, plan = split(market(make_bars, symbols=1), TimeSplit(embargo_bars=3))
    hole = assigned.filter(
        pl.col("timestamp") >= plan.interval("train").end, pl.col("timestamp") < plan.interval("validation").start
    )
    assert hole.height == LABELS.horizon_bars + 3
    assert hole["segment"].null_count() == hole.height


def test_the_latest_rows_stay_in_test_though_their_labels_are_not_known_yet(make_bars):
    assigned, _ = split(market(make_bars, symbols=1))
    assert assigned["t_end"][-1] is None
    assert assigned["segment"][-1] == "test"


def test_rows_of_train_without_a_known_label_are_left_out(make_bars):
    assigned, _ = split(market(make_bars, symbols=1))
    assert assigned["segment"].head(4).to_list() == [None, None, None, "train"]  # no trailing volatility yet


def test_a_plan_read_back_from_storage_assigns_the_same(make_bars):
    labels = market(make_bars)
    assigned, plan = split(labels)
    assert assign_segments(labels, SplitPlan.from_json(plan.to_json())).equals(assigned)


def test_a_segment_whose_rows_are_all_purged_is_refused(make_bars):
    labels = market(make_bars, symbols=1)
    _, plan = split(labels)
    unknown = labels.with_columns(
        t_end=pl.when(pl.col("timestamp") < plan.interval("validation").start).then(None).otherwise("t_end")
    )
    with pytest.raises(
        EmptyTableError, match=r"train gets no rows. Its interval .* holds \d+ rows, all of them"
    ) as caught:
        assign_segments(unknown, plan)
    assert caught.value.fields["segment"] == "train"


def test_a_test_segment_after_the_last_row_is_refused(make_bars):
    labels = market(make_bars, symbols=1)
    _, plan = split(labels)
    with pytest.raises(EmptyTableError, match=r"test gets no rows.*holds 0 rows"):
        assign_segments(labels.filter(pl.col("timestamp") < plan.interval("test").start), plan)


def tampered(assigned, when, **changes):
    return assigned.with_columns(**{name: pl.when(when).then(value).otherwise(name) for name, value in changes.items()})


def test_a_train_row_whose_label_reaches_into_validation_is_named_with_t_and_t_end(make_bars):
    assigned, plan = split(market(make_bars))
    last = assigned.filter(pl.col("segment") == "train")["timestamp"].max()
    row = (pl.col("timestamp") == last) & (pl.col("symbol") == "S1")
    later = plan.interval("validation").start + dt.timedelta(microseconds=1)
    with pytest.raises(LeakageError, match=r"split leaks in 1 rows: S1 .* overlaps S0 .* of validation") as caught:
        check_split(tampered(assigned, row, t_end=pl.lit(later)), plan)
    assert caught.value.fields["symbol"] == "S1"
    assert caught.value.fields["t"] == last.isoformat()
    assert caught.value.fields["t_end"] == later.isoformat()


def test_a_label_known_at_the_very_open_of_the_next_segment_does_not_touch_it(make_bars):
    assigned, plan = split(market(make_bars))
    last = assigned.filter(pl.col("segment") == "train")["timestamp"].max()
    check_split(tampered(assigned, pl.col("timestamp") == last, t_end=pl.lit(plan.interval("validation").start)), plan)


def test_a_train_row_without_t_end_is_a_leak(make_bars):
    assigned, plan = split(market(make_bars, symbols=1))
    row = pl.col("timestamp") == assigned.filter(pl.col("segment") == "train")["timestamp"].min()
    with pytest.raises(LeakageError, match="t_end=None"):
        check_split(tampered(assigned, row, t_end=None), plan)


def test_a_row_marked_for_a_segment_outside_its_interval_is_a_leak(make_bars):
    assigned, plan = split(market(make_bars))
    for wrong in SEGMENTS:
        with pytest.raises(LeakageError, match=f"is marked {wrong}, outside its interval"):
            check_split(tampered(assigned, pl.col("segment") != wrong, segment=pl.lit(wrong)), plan)


def test_the_proof_covers_every_row_of_the_hole(make_bars):
    """Whoever hands the purged rows back to train is found out, even with the plan's interval widened to hold them."""
    assigned, plan = split(market(make_bars, symbols=1))
    record = plan.to_json().replace(
        plan.interval("train").end.isoformat(), plan.interval("validation").start.isoformat()
    )
    widened = SplitPlan.from_json(record)
    refilled = assigned.with_columns(
        segment=pl.when(pl.col("timestamp") < plan.interval("validation").start, pl.col("t_end").is_not_null())
        .then(pl.lit("train"))
        .otherwise("segment")
    )
    with pytest.raises(LeakageError, match=f"split leaks in {LABELS.horizon_bars} rows"):
        check_split(refilled, widened)


def test_a_table_that_is_no_assignment_is_refused(make_bars):
    assigned, plan = split(market(make_bars, symbols=1))
    with pytest.raises(SchemaError, match="no column 'segment'"):
        check_split(assigned.drop("segment"), plan)
    with pytest.raises(SchemaError, match="unknown segments holdout"):
        check_split(tampered(assigned, pl.col("segment") == "test", segment=pl.lit("holdout")), plan)


def test_ten_real_pairs_with_exchange_halts_split_clean(shared_data):
    path = shared_data / "binance_spot_usdt_1h_2020-12_2021-07.parquet"
    bars = pl.read_parquet(path)
    symbols = bars["symbol"].unique().sort().head(10).to_list()
    config, hour = LabelsConfig(), Timeframe("1h")
    labels = pl.concat([compute_labels(bars.filter(pl.col("symbol") == s), config, hour) for s in symbols])
    plan = TimeSplit(embargo_bars=24).plan(labels, horizon_bars=config.horizon_bars, timeframe=hour)
    assigned = assign_segments(labels, plan)
    check_split(assigned, plan)
    assert assigned.filter(pl.col("segment") == "train")["symbol"].n_unique() >= 9
