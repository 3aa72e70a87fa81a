"""Changes of the price scale: splits, token swaps, wrong ticks, names used again; and crashes, which are none of them."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import PRICE_COLUMNS, Timeframe
from quantfleet_data.quality import find_breaks

DAY = Timeframe("1d")


def scaled(bars, row, factor, until=None, *, money=1.0):
    """Prices times `factor` from a row on, and so many more shares that `money` times the usual money is traded."""
    inside = pl.int_range(pl.len()).is_between(row, bars.height if until is None else until, closed="left")
    return bars.with_columns(
        *(pl.when(inside).then(pl.col(name) * factor).otherwise(name).alias(name) for name in PRICE_COLUMNS),
        volume=pl.when(inside).then(pl.col("volume") * money / factor).otherwise("volume"),
    )


def paused(bars, row, days):
    """The same bars with a pause before a row."""
    late = pl.int_range(pl.len()) >= row
    return bars.with_columns(
        timestamp=pl.col("timestamp") + pl.when(late).then(dt.timedelta(days=days)).otherwise(dt.timedelta())
    )


def adjusted(bars, row, factor):
    """What the source says the previous close is on this day's scale."""
    says = (
        pl.when(pl.int_range(pl.len()) == row)
        .then(pl.col("close").shift(1) * factor)
        .otherwise(pl.col("close").shift(1))
    )
    return bars.with_columns(prev_adj_close=says)


def breaks(bars, **options):
    return find_breaks(bars, DAY, **{"tolerance": 0.05, "stop": dt.timedelta(days=30), **options})


def calm(make_bars, seed=7, rows=100):
    """A calm market with an even volume."""
    return make_bars(seed, rows, volatility=0.005).with_columns(volume=pl.lit(1000.0))


@pytest.mark.parametrize(
    ("factor", "check", "terms"),
    [
        (0.5, "splits", "split of about 2:1"),
        (0.1, "splits", "split of about 10:1"),
        (1 / 3, "splits", "split of about 3:1"),
        (4.0, "splits", "split of about 1:4"),
        (0.26, "splits", "split of about 4:1"),
        (100.0, "token_swaps", "token swap of about 1:100"),
        (1000.0, "token_swaps", "token swap of about 1:1000"),
        (1e-6, "token_swaps", "token swap of about 1000000:1"),
    ],
)
def test_a_scale_that_changes_by_a_whole_multiple_and_stays_has_a_name(make_bars, factor, check, terms):
    bars = scaled(calm(make_bars), 60, factor)
    (found,) = breaks(bars)
    assert (found.check, found.start, found.end, found.bars) == (check, bars["timestamp"][60], bars["timestamp"][60], 1)
    assert (found.severity, found.hindsight) == ("error", True)
    assert found.known_at == bars["timestamp"][64] + DAY.delta
    assert terms in found.detail


@pytest.mark.parametrize("factor", [0.5, 0.2, 1 / 3, 3.0])
def test_a_crash_or_a_rally_on_many_times_the_usual_money_is_no_split(make_bars, factor):
    """XOMA 2015-07-22 fell to a fifth on 5 times the money, ERII 2015-10-20 tripled on 900 times."""
    bars = calm(make_bars)
    assert breaks(scaled(bars, 60, factor, money=6.0)) == ()
    assert [f.check for f in breaks(scaled(bars, 60, factor, money=1.5))] == ["splits"]


def test_a_tenfold_jump_is_a_split_whatever_is_traded(make_bars):
    """GOL 2016-02-26: 1:10, on 18 times the money."""
    assert [f.check for f in breaks(scaled(calm(make_bars), 60, 10.0, money=18.0))] == ["splits"]


def test_a_swap_after_a_stop_of_the_symbol_alone_may_start_with_a_frenzy(make_bars):
    """BTCST 2021-03-19: no bars for four days, then 10:1 on 30 times the money."""
    bars = scaled(calm(make_bars), 60, 0.25, money=30.0)
    (found,) = breaks(paused(bars, 60, 14))
    assert (found.check, "after 14 missing bars" in found.detail) == ("splits", True)
    assert breaks(bars) == ()


def test_when_the_whole_market_was_closed_it_was_no_stop_of_the_symbol(make_bars):
    bars = paused(scaled(calm(make_bars), 60, 0.25, money=30.0), 60, 14)
    assert breaks(bars, union=bars["timestamp"]) == ()


def test_a_market_without_volume_is_judged_by_prices_alone(make_bars):
    bars = scaled(calm(make_bars), 60, 0.5).with_columns(volume=pl.lit(None, pl.Float64))
    assert [f.check for f in breaks(bars)] == ["splits"]


@pytest.mark.parametrize("factor", [1.5, 0.67, 0.4, 1.3])
def test_gaps_of_the_size_of_news_are_no_splits(make_bars, factor):
    assert breaks(scaled(calm(make_bars), 60, factor)) == ()


def test_a_move_within_the_bar_is_no_break(write_bars):
    """PNT 2021-01-31: the price more than doubled within an hour, and the next opened where that one closed."""
    still = [[0.5, 0.51, 0.49, 0.5]] * 20
    assert breaks(write_bars([*still, [0.5, 1.3, 0.5, 1.0], *[[1.0, 1.01, 0.99, 1.0]] * 20])) == ()


def test_whole_multiples_mean_nothing_where_hardly_anybody_trades(write_bars):
    """MITK 2008: one trade a day at 0.25, at 0.50, at 0.25."""
    assert breaks(write_bars([[0.5]] * 30 + [[0.25]] * 10)) == ()


@pytest.mark.parametrize(("factor", "length"), [(0.1, 1), (0.1, 3), (10.0, 1), (0.25, 1)])
def test_a_few_bars_at_another_scale_are_wrong_ticks(make_bars, factor, length):
    bars = calm(make_bars)
    (found,) = breaks(scaled(bars, 60, factor, until=60 + length))
    assert (found.check, found.start, found.end) == ("bad_ticks", bars["timestamp"][60], bars["timestamp"][59 + length])
    assert (found.bars, found.hindsight, found.known_at) == (length, True, bars["timestamp"][60 + length] + DAY.delta)


def test_an_open_alone_at_a_tenth_is_known_to_be_wrong_when_its_bar_closes(make_bars):
    """PCG 2012-10-08 and NEU 2015-08-19."""
    at = pl.int_range(pl.len()) == 60
    bars = calm(make_bars).with_columns(pl.when(at).then(pl.col("open") / 10).otherwise("open").alias("open"))
    (found,) = breaks(bars)
    assert (found.check, found.start, found.hindsight) == ("bad_ticks", bars["timestamp"][60], False)
    assert found.known_at == bars["timestamp"][61]


def test_strays_before_a_history_begins_are_wrong_ticks(make_bars):
    """NK 2015-07-28 opened at 37 after two days at 0.01."""
    bars = calm(make_bars)
    (found,) = breaks(scaled(bars, 0, 0.0003, until=2))
    assert (found.check, found.start, found.end) == ("bad_ticks", bars["timestamp"][0], bars["timestamp"][1])


def test_a_crash_that_recovers_within_days_is_no_wrong_tick(make_bars):
    bars = scaled(calm(make_bars), 60, 0.4, until=61, money=20.0)
    assert breaks(bars) == ()


@pytest.mark.parametrize("factor", [0.2, 7.3])
def test_a_name_that_comes_back_after_long_silence_at_another_price_is_used_again(make_bars, factor):
    bars = scaled(calm(make_bars), 60, factor)
    (found,) = breaks(paused(bars, 60, 45))
    assert (found.check, found.hindsight) == ("reused_tickers", True)
    assert found.start == paused(bars, 60, 45)["timestamp"][60]
    assert "another asset?" in found.detail


def test_a_name_that_comes_back_near_its_old_price_is_the_old_one(make_bars):
    assert breaks(paused(scaled(calm(make_bars), 60, 0.8), 60, 45)) == ()


def test_another_price_on_a_hundred_times_the_money_is_another_asset_without_any_silence(make_bars):
    """FTAI 2015-05-22: the new listing took over a name that had hardly been traded, at 1/46 of its price."""
    (found,) = breaks(scaled(calm(make_bars), 60, 1 / 46, money=500.0))
    assert found.check == "reused_tickers"


def test_the_sources_own_adjustment_settles_it(make_bars):
    crash = scaled(calm(make_bars), 60, 0.5)
    assert [f.check for f in breaks(crash)] == ["splits"]
    assert breaks(adjusted(crash, 60, 1.0)) == ()  # it knows of no split: a crash
    (found,) = breaks(adjusted(crash, 60, 0.5))
    assert "its source adjusts for it: a split of about 2:1" in found.detail
    odd = adjusted(scaled(calm(make_bars), 60, 0.45, money=7.0), 60, 0.45)
    assert "a split of about 2.222:1" in breaks(odd)[0].detail


def test_a_source_that_adjusts_for_a_split_its_prices_do_not_show_is_half_adjusted(make_bars):
    """FRO 2016-02-02: the previous close at five times what it was, a day before prices were."""
    bars = adjusted(calm(make_bars), 60, 5.0)
    (found,) = breaks(bars)
    assert (found.check, found.start, found.hindsight) == ("half_adjusted", bars["timestamp"][60], False)
    assert breaks(adjusted(bars, 60, 1.2)) == ()


def test_a_split_in_the_last_bar_is_suspected_on_what_is_there(make_bars):
    (found,) = breaks(scaled(calm(make_bars, rows=61), 60, 0.5))
    assert (found.check, found.hindsight) == ("splits", False)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), row=st.integers(30, 180), factor=st.sampled_from([0.1, 0.5, 3.0, 50.0, 1000.0]))
def test_every_injected_change_of_scale_is_found_once_and_nothing_else(make_bars, seed, row, factor):
    (found,) = breaks(scaled(calm(make_bars, seed, 200), row, factor))
    assert found.start == calm(make_bars, seed, 200)["timestamp"][row]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), row=st.integers(30, 180), cut=st.integers(0, 19))
def test_what_was_known_at_a_time_needs_no_bar_after_it(make_bars, seed, row, cut):
    """`known_at` is honest: with the bars closed by then, and no others, the finding is the same."""
    bars = scaled(scaled(calm(make_bars, seed, 200), row, 0.1), cut, 0.1, until=cut + 1)
    for finding in breaks(bars):
        until = bars.filter(pl.col("timestamp") + DAY.delta <= finding.known_at)
        assert finding in breaks(until)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), volatility=st.sampled_from([0.01, 0.05, 0.1]))
def test_ordinary_walks_have_no_breaks(make_bars, seed, volatility):
    assert breaks(make_bars(seed, 1000, volatility=volatility)) == ()


def test_one_bar_has_no_break(write_bars):
    assert breaks(write_bars([[5.0]])) == ()
