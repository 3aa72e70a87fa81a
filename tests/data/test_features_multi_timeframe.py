"""A feature on longer bars: as of the last closed one, never of the running one, in parts as in one go."""

import datetime as dt
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import FeatureSet, Timeframe
from quantfleet.errors import ConfigError, DataError, TimeError
from quantfleet_data.features import assert_causal, check_base, feature_set, spread_cuts
from quantfleet_data.features.calendar import DayOfWeek
from quantfleet_data.features.cross_section import CrossRank
from quantfleet_data.features.moments import ReturnSkewness
from quantfleet_data.features.multi_timeframe import OnTimeframe
from quantfleet_data.features.range_volatility import YangZhang
from quantfleet_data.features.relative import RelativeStrength
from quantfleet_data.features.returns import LogReturn
from quantfleet_data.features.volume import VolumeZScore

UTC = dt.UTC
NEW_YEAR = dt.datetime(2024, 1, 1, tzinfo=UTC)  # a Monday


def bits(values):
    return np.where(np.isnan(values), np.nan, values).view(np.int64)


def advance_in_parts(feature, bars, cuts):
    """Feed the bars part by part, with just as many known bars in front as the contract promises."""
    parts, state = [], None
    for start, stop in pairwise([0, *sorted({c for c in cuts if 0 < c < bars.height}), bars.height]):
        known = min(start, feature.lookback_bars - 1)
        values, state = feature.advance(bars[start - known : stop], stop - start, state)
        parts.append(values)
    return np.concatenate(parts)


def slow_value(feature, bars, row):
    """The value at a row by the words of the definition: drop the rest, make longer bars with polars, take the last."""
    seen = bars.head(row + 1)
    now = seen["timestamp"][-1] + Timeframe(feature.base).delta
    every = feature.timeframe.replace("M", "mo")
    made = seen.group_by_dynamic("timestamp", every=every, start_by="window").agg(
        pl.col("open").first(),
        pl.col("high").max(),
        pl.col("low").min(),
        pl.col("close").last(),
        pl.when(pl.col("volume").null_count() == 0).then(pl.col("volume").sum()).alias("volume"),
    )
    if seen["timestamp"][0] != made["timestamp"][0]:
        made = made[1:]
    ends = made["timestamp"].dt.offset_by(every)
    made = made.filter(ends <= now)
    return feature.of.compute(made)[-1] if made.height else np.nan


@pytest.mark.parametrize("timeframe", ["5m", "15m", "1h", "4h", "1d"])
@pytest.mark.parametrize("of", [LogReturn(bars=1), YangZhang(bars=3), VolumeZScore(bars=3)], ids=lambda f: f.kind)
def test_equals_the_feature_on_longer_bars_made_by_polars_and_cut_at_the_bars_close(make_bars, timeframe, of):
    bars = make_bars(1, 8000, timeframe="1m", volatility=0.001, start=NEW_YEAR + dt.timedelta(minutes=7))
    bars = bars.filter(pl.Series(np.random.default_rng(2).random(bars.height) < 0.9))  # gaps
    feature = OnTimeframe(of=of, timeframe=timeframe, base="1m")
    values = feature.compute(bars)
    defined = np.flatnonzero(~np.isnan(values))
    assert (defined.size > 0) == (feature.lookback_bars <= bars.height)
    for row in np.random.default_rng(3).choice(defined, 40) if defined.size else ():
        assert values[row] == pytest.approx(slow_value(feature, bars, int(row)), rel=1e-12, abs=1e-15)


def test_the_value_stands_still_while_a_longer_bar_runs_and_moves_with_the_bar_that_closes_it(make_bars):
    bars = make_bars(4, 24 * 30, timeframe="1h")
    values = OnTimeframe(of=LogReturn(bars=1), timeframe="1d", base="1h").compute(bars)
    moved = np.flatnonzero(values[71:-1] != values[72:]) + 72
    assert (bars["timestamp"].dt.hour().to_numpy()[moved] == 23).all()  # known at 24:00, the close of the bar of 23:00
    assert moved.size == 27
    daily = bars["close"].to_numpy()[23::24]
    np.testing.assert_allclose(values[moved], np.log(daily[3:] / daily[2:-1]), rtol=1e-12)


def test_the_running_bar_has_no_say(make_bars):
    bars = make_bars(5, 24 * 10, timeframe="1h")
    feature = OnTimeframe(of=YangZhang(bars=3), timeframe="1d", base="1h")
    shock = pl.when(pl.int_range(pl.len()) == 24 * 9).then(1000.0).otherwise(1.0)
    shocked = bars.with_columns(pl.col("high") * shock, pl.col("close") * shock)
    calm, after = feature.compute(bars), feature.compute(shocked)
    np.testing.assert_array_equal(bits(calm[: 24 * 10 - 1]), bits(after[: 24 * 10 - 1]))
    assert calm[-1] != after[-1]


def test_a_longer_bar_that_no_base_bar_ends_is_seen_by_the_first_bar_after_it(write_bars):
    friday = dt.datetime(2024, 1, 5, tzinfo=UTC)
    bars = write_bars([[float(p)] for p in range(100, 140)], start=friday - dt.timedelta(days=11))
    bars = bars.filter(pl.col("timestamp").dt.weekday() <= 5)  # Tuesday 2023-12-26 and on, no weekends
    values = OnTimeframe(of=LogReturn(bars=1), timeframe="1w", base="1d").compute(bars)
    weekday = bars["timestamp"].dt.weekday().to_numpy()
    changed = np.flatnonzero((values[1:] != values[:-1]) & ~np.isnan(values[:-1])) + 1
    assert (weekday[changed] == 1).all()
    assert changed.size > 0


def test_months_follow_the_calendar(make_bars):
    bars = make_bars(6, 400, timeframe="1d", start=dt.datetime(2023, 12, 15, tzinfo=UTC))
    feature = OnTimeframe(of=LogReturn(bars=1), timeframe="1M", base="1d")
    values = feature.compute(bars)
    assert feature.lookback_bars == 93
    changed = np.flatnonzero((values[1:] != values[:-1]) & ~np.isnan(values[:-1])) + 1
    moved = bars["timestamp"][changed.tolist()].to_list()
    assert len(moved) == 10
    assert all((day + dt.timedelta(days=1)).day == 1 for day in moved)  # known with the bar of a month's last day
    by_month = dict(bars.group_by(bars["timestamp"].dt.strftime("%Y-%m")).agg(pl.col("close").last()).iter_rows())
    row = bars["timestamp"].to_list().index(dt.datetime(2024, 5, 31, tzinfo=UTC))
    assert values[row] == pytest.approx(np.log(by_month["2024-05"] / by_month["2024-04"]))
    assert values[row - 1] == pytest.approx(np.log(by_month["2024-04"] / by_month["2024-03"]))


def test_a_history_that_begins_inside_a_longer_bar_does_not_count_it(make_bars):
    bars = make_bars(7, 60, timeframe="1h", start=NEW_YEAR)
    whole = OnTimeframe(of=LogReturn(bars=1), timeframe="4h", base="1h")
    np.testing.assert_array_equal(bits(whole.compute(bars)[20:]), bits(whole.compute(bars[1:])[19:]))
    # of the first day, 23 hours are not a day: the first close known is that of the second day
    daily = OnTimeframe(of=DayOfWeek(), timeframe="1d", base="1h")
    state_free = daily.compute(bars[1:])
    assert np.isnan(state_free[: 48 - 2]).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    cuts=st.lists(st.integers(1, 400), max_size=8),
    kept=st.floats(0.5, 1.0),
    late=st.integers(0, 59),
    of=st.sampled_from([LogReturn(bars=1), LogReturn(bars=5), YangZhang(bars=4), VolumeZScore(bars=6), DayOfWeek()]),
    timeframe=st.sampled_from(["5m", "15m", "1h"]),
    volume=st.sampled_from(["traded", "patchy", "null"]),
)
def test_in_parts_it_gives_the_same_bits_as_in_one_go(make_bars, seed, cuts, kept, late, of, timeframe, volume):
    start = NEW_YEAR + dt.timedelta(minutes=late)
    bars = make_bars(seed, 400, timeframe="1m", volume=volume, start=start)
    bars = bars.filter(pl.Series(np.random.default_rng(seed).random(bars.height) <= kept))
    feature = OnTimeframe(of=of, timeframe=timeframe, base="1m")
    np.testing.assert_array_equal(bits(advance_in_parts(feature, bars, cuts)), bits(feature.compute(bars)))


@pytest.mark.parametrize("timeframe", ["1w", "1M"])
def test_in_parts_on_weeks_and_months_before_and_after_1970(make_bars, timeframe):
    bars = make_bars(9, 900, timeframe="1d", start=dt.datetime(1968, 11, 3, tzinfo=UTC))
    feature = OnTimeframe(of=ReturnSkewness(bars=5), timeframe=timeframe, base="1d")
    whole = feature.compute(bars)
    assert np.isfinite(whole[feature.lookback_bars - 1 :]).all()
    np.testing.assert_array_equal(bits(advance_in_parts(feature, bars, range(0, 900, 37))), bits(whole))


def test_it_is_causal_to_the_bit_on_real_bars(shared_data):
    path = shared_data / "binance_spot_usdt_5m_2020-12_2021-07.parquet"
    bars = pl.scan_parquet(path).filter(pl.col("symbol") == "BTC/USDT").head(8000).collect()
    features = tuple(
        OnTimeframe(of=of, timeframe=timeframe, base="5m")
        for of in (LogReturn(bars=1), YangZhang(bars=5))
        for timeframe in ("15m", "1h", "1d")
    )
    assert_causal(FeatureSet(name="longer", version=1, features=features), bars, spread_cuts(bars.height, 5))


def test_columns_joined_to_the_bars_are_lengthened_by_their_ending(make_bars):
    bars = make_bars(10, 300, timeframe="1h").with_columns(index_close=pl.col("close") ** 0.5)
    feature = OnTimeframe(of=RelativeStrength(bars=2), timeframe="1d", base="1h")
    assert feature.inputs == ("timestamp", "close", "index_close")
    daily = np.log(bars["close"].to_numpy()[23::24])
    assert feature.compute(bars)[-13] == pytest.approx((daily[-1] - daily[-3]) / 2)


def test_the_name_scale_and_look_back_come_from_the_inner_feature():
    feature = OnTimeframe(of=LogReturn(bars=5), timeframe="1h", base="5m")
    assert feature.column == "log_return_5_on_1h"
    assert feature.lookback_bars == 7 * 12
    assert feature.scaling == LogReturn(bars=5).scaling


def test_bars_closer_than_the_base_are_refused_since_they_would_be_used_before_they_are_known(make_bars):
    feature = OnTimeframe(of=LogReturn(), timeframe="1d", base="1h")
    with pytest.raises(TimeError, match="takes bars for 1h, but they stand closer, first at 2020-01-01 00:05"):
        feature.compute(make_bars(11, 50, timeframe="5m"))
    _, state = feature.advance(make_bars(11, 1, timeframe="1h"), 1, None)
    with pytest.raises(TimeError, match="stand closer"):
        feature.advance(make_bars(11, 2, timeframe="5m"), 1, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timeframe": "1h", "base": "1h"}, "is not made of whole bars"),
        ({"timeframe": "90m", "base": "1h"}, "is not made of whole bars"),
        ({"timeframe": "1h", "base": "1d"}, "is not made of whole bars"),
        ({"timeframe": "1M", "base": "1w"}, "is not made of whole bars"),
        ({"timeframe": "3M", "base": "1M"}, "is not made of whole bars"),
        ({"timeframe": "1x"}, "is not a count and a unit"),
        ({"of": CrossRank()}, "Turn it round"),
        ({"of": OnTimeframe()}, "Turn it round"),
    ],
)
def test_what_cannot_be_put_on_another_timeframe_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        OnTimeframe(**{"timeframe": "1h", "base": "1m", **change})


def test_a_base_that_is_not_the_tables_timeframe_is_refused_by_name():
    features = feature_set("multi_timeframe_1h")
    check_base(features, "1h")
    check_base(feature_set("core"), "5m")
    with pytest.raises(ConfigError, match=r"'log_return_1_on_4h' has base='1h'.*bars of 5m: it would look ahead"):
        check_base(features, "5m")
    crossed = FeatureSet(name="crossed", version=1, features=(CrossRank(of=OnTimeframe(base="1m", timeframe="1d")),))
    with pytest.raises(ConfigError, match="it would be a bar late"):
        check_base(crossed, "1h")


def test_the_state_of_another_feature_is_refused(make_bars):
    with pytest.raises(DataError, match="state of another feature"):
        OnTimeframe(base="1h", timeframe="1d").advance(make_bars(12, 3, timeframe="1h"), 1, np.empty(0))


def test_the_grids_of_weeks_and_months():
    def us(*when):
        return np.array([int(dt.datetime(*when, tzinfo=UTC).timestamp()) * 1_000_000])

    assert Timeframe("1w").opens_us(us(2024, 2, 29, 13)) == us(2024, 2, 26)
    assert Timeframe("1w").opens_us(us(1969, 12, 31)) == us(1969, 12, 29)
    assert Timeframe("1M").opens_us(us(2024, 2, 29, 13)) == us(2024, 2, 1)
    assert Timeframe("1M").ends_us(us(2024, 2, 1)) == us(2024, 3, 1)
    assert Timeframe("3M").opens_us(us(2024, 6, 30)) == us(2024, 4, 1)
    assert Timeframe("12M").ends_us(us(1969, 1, 1)) == us(1970, 1, 1)
    assert (Timeframe("1M").months, Timeframe("1w").months, Timeframe("3M").longest_seconds) == (1, 0, 93 * 86_400)
    with pytest.raises(ConfigError, match="'1M' has no fixed length"):
        _ = Timeframe("1M").delta
