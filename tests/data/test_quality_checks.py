"""Checks of raw bars that need no judgement."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError
from quantfleet_data.quality import (
    CHECKS,
    QualityPolicy,
    find_contradictions,
    find_duplicates,
    find_flat_bars,
    find_gaps,
    find_stale_runs,
    find_zero_volume_runs,
    inspect_bars,
)
from quantfleet_data.quality.finding import runs

DAY, HOUR = Timeframe("1d"), Timeframe("1h")
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def day(n):
    return START + n * DAY.delta


def without(bars, *rows):
    return bars.with_row_index().filter(~pl.col("index").is_in(list(rows))).drop("index")


def spans(findings):
    return [(f.start, f.end, f.bars) for f in findings]


def test_runs_are_unbroken_stretches_of_true_and_null_is_false():
    assert runs(pl.Series([True, True, False, None, True])) == [(0, 2), (4, 1)]
    assert runs(pl.Series([], dtype=pl.Boolean)) == []


def test_a_gap_is_named_by_its_first_and_last_missing_bar(make_bars):
    bars = without(make_bars(1, 20), 3, 4, 5, 9)
    assert spans(find_gaps(bars, DAY)) == [(day(3), day(5), 3), (day(9), day(9), 1)]


def test_bars_missing_before_the_first_and_after_the_last_are_no_gap(make_bars):
    assert find_gaps(without(make_bars(1, 20), 0, 1, 19), DAY) == ()


def test_a_bar_off_the_grid_leaves_the_bars_it_skips_missing(make_bars):
    """Hourly bars at 0, 1, 2 and 4:30: those of 3 and 4 are missing."""
    bars = make_bars(2, 4, timeframe="1h")
    late = (
        pl.when(pl.int_range(pl.len()) == 3).then(pl.col("timestamp") + dt.timedelta(minutes=90)).otherwise("timestamp")
    )
    (gap,) = find_gaps(bars.with_columns(timestamp=late), HOUR)
    assert (gap.start, gap.bars) == (START + 3 * HOUR.delta, 2)


def test_against_the_markets_union_a_holiday_of_all_is_no_gap(make_bars):
    market = without(make_bars(3, 20, symbol="BBB"), 5, 6, 12)["timestamp"]  # a weekend and a holiday
    bars = without(make_bars(3, 20), 5, 6, 7, 8, 12, 15)
    assert spans(find_gaps(bars, DAY, union=market)) == [(day(7), day(8), 2), (day(15), day(15), 1)]


def test_a_gap_over_a_holiday_counts_only_the_bars_that_were_due(make_bars):
    market = without(make_bars(3, 20), 5, 6)["timestamp"]
    assert spans(find_gaps(without(make_bars(3, 20), 4, 5, 6, 7), DAY, union=market)) == [(day(4), day(7), 2)]


@settings(max_examples=30, deadline=None)
@given(lost=st.sets(st.integers(1, 58)), seed=st.integers(0, 100))
def test_gaps_count_exactly_the_bars_that_were_taken_out(make_bars, lost, seed):
    bars = make_bars(seed, 60, timeframe="1h")
    for union in (None, bars["timestamp"]):
        found = find_gaps(without(bars, *lost), HOUR, union=union)
        hours = {(f.start - START) // HOUR.delta + i for f in found for i in range((f.end - f.start) // HOUR.delta + 1)}
        assert hours == lost
        assert sum(f.bars for f in found) == len(lost)


def test_duplicates_are_counted_beyond_the_first_and_neighbours_are_one_finding(make_bars):
    bars = make_bars(4, 10)
    doubled = pl.concat([bars, bars[2:4], bars[3:4], bars[8:9]]).sort("timestamp")
    found = find_duplicates(doubled)
    assert spans(found) == [(day(2), day(3), 3), (day(8), day(8), 1)]
    assert found[0].detail == "3 bars too many at 2 times"
    assert find_duplicates(bars) == ()


@pytest.mark.parametrize(
    "bad",
    [
        [10.0, 9.9, 9.0, 9.5],  # high below open
        [10.0, 10.4, 9.0, 10.5],  # high below close
        [9.0, 10.0, 9.5, 9.6],  # low above open
        [9.6, 10.0, 9.5, 9.4],  # low above close
        [9.5, 9.0, 10.0, 9.5],  # high below low
    ],
)
def test_a_bar_whose_range_does_not_enclose_it_contradicts_itself(write_bars, bad):
    good = [10.0, 11.0, 9.0, 10.0]
    assert spans(find_contradictions(write_bars([good, bad, good]))) == [(day(1), day(1), 1)]
    assert find_contradictions(write_bars([good, [10.0]])) == ()


def test_a_stale_run_starts_with_the_bar_that_the_others_repeat(write_bars):
    bars = write_bars([[1.0], [2.0], [2.0], [2.0], [3.0], [3.0], [2.0]])
    (run,) = find_stale_runs(bars, min_bars=3)
    assert spans([run]) == [(day(1), day(3), 3)]
    assert len(find_stale_runs(bars, min_bars=2)) == 2
    assert find_stale_runs(bars, min_bars=4) == ()


def test_a_close_that_stands_still_in_a_moving_range_is_not_stale(write_bars):
    assert find_stale_runs(write_bars([[2.0, 3.0 + i, 1.0, 2.0] for i in range(9)]), min_bars=2) == ()


def test_zero_volume_runs_are_found_and_null_volume_is_none(write_bars):
    bars = write_bars([[1.0]] * 7, volume=[1.0, 0.0, 0.0, None, 0.0, 0.0, 0.0])
    assert spans(find_zero_volume_runs(bars, min_bars=3)) == [(day(4), day(6), 3)]
    assert find_zero_volume_runs(write_bars([[1.0]] * 5, volume=[None] * 5), min_bars=1) == ()


def test_flat_bars_have_one_price_though_the_market_traded(write_bars):
    flat, alive = [2.0], [2.0, 2.1, 1.9, 2.0]
    bars = write_bars([flat, [3.0], alive, flat, [4.0], [5.0]], volume=[None, None, 1.0, 0.0, 7.0, 9.0])
    assert spans(find_flat_bars(bars, min_bars=2)) == [(day(0), day(1), 2), (day(4), day(5), 2)]
    assert find_flat_bars(bars, min_bars=3) == ()


@pytest.mark.parametrize(("timeframe", "zero", "flat"), [("1d", 1, 1), ("1h", 3, 20)])
def test_a_day_without_trades_counts_alone_an_hour_does_not(make_bars, timeframe, zero, flat):
    calm = make_bars(12, 60, timeframe=timeframe)
    for check, bars, needed in (
        ("zero_volume", calm.with_columns(volume=pl.lit(0.0)), zero),
        ("flat", calm.with_columns(pl.col("close").alias(name) for name in ("open", "high", "low")), flat),
    ):
        for count, found in ((needed - 1, 0), (needed, 1)):
            mixed = pl.concat([calm.head(60 - count), bars.tail(count)])
            findings = inspect_bars(mixed, QualityPolicy(calendar="continuous"), Timeframe(timeframe))
            assert sum(f.check == check for f in findings) == found


def test_every_finding_says_when_it_could_first_be_made(make_bars):
    bars = make_bars(13, 400)
    late = pl.int_range(pl.len()) >= 300
    jump = bars.with_columns(
        pl.when(late).then(pl.col("^(open|high|low|close)$") * 50).otherwise(pl.col("^(open|high|low|close)$"))
    )
    found = {f.check: f for f in inspect_bars(without(jump, 21), QualityPolicy(calendar="continuous"), DAY)}
    assert found["gaps"].known_at == day(22)
    assert (found["outliers"].known_at, found["outliers"].hindsight) == (day(301), False)
    assert (found["splits"].known_at, found["splits"].hindsight) == (day(305), True)
    sample = inspect_bars(jump, QualityPolicy(calendar="continuous", outlier_scale="sample"), DAY)
    (outlier,) = [f for f in sample if f.check == "outliers"]
    assert (outlier.known_at, outlier.hindsight) == (day(400), True)


def test_clean_bars_have_no_findings(make_bars):
    bars = make_bars(5, 500)
    assert inspect_bars(bars, QualityPolicy(calendar="continuous"), DAY) == ()


def test_all_checks_are_run_in_their_order_with_the_policys_thresholds(make_bars):
    bars = make_bars(6, 400)
    row = pl.int_range(pl.len())
    broken = bars.with_columns(
        pl.when(row >= 300).then(pl.col("^(open|high|low|close)$") * 50).otherwise(pl.col("^(open|high|low|close)$")),
        volume=pl.when(row.is_between(30, 32)).then(0.0).otherwise("volume"),
    )
    broken = broken.with_columns(high=pl.when(row == 40).then(pl.col("low") / 2).otherwise("high"))
    still = broken.with_columns(
        pl.col(n).gather(pl.max_horizontal(row.clip(0, 60), row * (row > 64))) for n in ["close", "open"]
    )
    still = still.with_columns(high=pl.when(row.is_between(60, 64)).then(9e9).otherwise("high"))
    still = still.with_columns(low=pl.when(row.is_between(60, 64)).then(1e-9).otherwise("low"))
    bars = without(pl.concat([still, still[10:11]]).sort("timestamp"), 21)
    found = inspect_bars(bars, QualityPolicy(calendar="continuous"), DAY)
    assert {"gaps", "duplicates", "ohlc", "stale", "zero_volume", "outliers", "splits"} <= {f.check for f in found}
    assert [CHECKS.index(f.check) for f in found] == sorted(CHECKS.index(f.check) for f in found)


def test_a_union_calendar_needs_the_times_of_the_market(make_bars):
    with pytest.raises(ConfigError, match="calendar=union needs the times"):
        inspect_bars(make_bars(7, 10), QualityPolicy(calendar="union"), DAY)


def test_a_continuous_calendar_does_not_look_at_the_union(make_bars):
    bars = make_bars(8, 10)
    policy = QualityPolicy(calendar="continuous")
    assert inspect_bars(without(bars, 4), policy, DAY, union=without(bars, 4)["timestamp"])[0].check == "gaps"


def test_no_bars_and_several_symbols_are_refused(make_bars):
    bars = make_bars(9, 10)
    with pytest.raises(EmptyTableError, match="no bars to inspect"):
        inspect_bars(bars.clear(), QualityPolicy(calendar="continuous"), DAY)
    with pytest.raises(SchemaError, match="hold 2 symbols"):
        inspect_bars(pl.concat([bars, bars.with_columns(symbol=pl.lit("B"))]), QualityPolicy(), DAY)


def test_breaks_of_closed_hours_and_more_are_a_closed_market_and_shorter_ones_are_gaps(make_bars):
    bars = make_bars(0, 200, timeframe="1h").filter(~pl.int_range(pl.len()).is_in([*range(20, 59), *range(100, 138)]))
    policy = QualityPolicy(calendar="sessions", closed_hours=40.0)
    gaps = [f for f in inspect_bars(bars, policy, Timeframe("1h")) if f.check == "gaps"]
    assert [f.bars for f in gaps] == [38]  # 39 hours from open to open; the other break has 40


def test_sessions_of_bars_so_long_that_one_missing_looks_like_a_closure_are_refused(make_bars):
    with pytest.raises(
        ConfigError, match=r"closed_hours=40 cannot tell a missing bar of 1d .* Set closed_hours above 48"
    ):
        inspect_bars(make_bars(0, 30), QualityPolicy(calendar="sessions"), DAY)
