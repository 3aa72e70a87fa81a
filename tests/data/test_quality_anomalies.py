"""Moves too large for their past, and moves that few trades made."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import PRICE_COLUMNS
from quantfleet_data.quality import find_outliers, find_thin_moves


def rescaled(bars, row, factor, until=None):
    index = pl.int_range(pl.len())
    inside = (index >= row) & (index < (until if until is not None else bars.height))
    return bars.with_columns(pl.when(inside).then(pl.col(PRICE_COLUMNS) * factor).otherwise(pl.col(PRICE_COLUMNS)))


def outliers(bars, *, z=20.0, window_bars=250, scale="trailing"):
    return find_outliers(bars, z=z, window_bars=window_bars, scale=scale)


@pytest.mark.parametrize("scale", ["trailing", "sample"])
def test_a_move_far_beyond_the_usual_is_an_outlier_and_its_return_is_told(make_bars, scale):
    bars = rescaled(make_bars(1, 400), 300, 2.0)
    (found,) = outliers(bars, scale=scale)
    assert (found.start, found.end, found.bars) == (bars["timestamp"][300], bars["timestamp"][300], 1)
    change = np.log(bars["close"][300] / bars["close"][299])
    assert found.detail.startswith(f"log return {change:+.4f} is ")


def test_the_score_is_the_return_over_the_median_absolute_return_before_it(make_bars):
    bars = rescaled(make_bars(2, 400), 300, 2.0)
    changes = np.diff(np.log(bars["close"].to_numpy()), prepend=np.nan)
    score = abs(changes[300]) / (1.4826 * np.median(np.abs(changes[300 - 120 : 300])))
    (found,) = outliers(bars, window_bars=120)
    assert f"is {score:.1f} robust" in found.detail


def test_ordinary_walks_have_no_outliers(make_bars):
    for seed in range(10):
        assert outliers(make_bars(seed, 500)) == ()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(60, 399), jump=st.floats(1.2, 3.0), row=st.integers(60, 399))
def test_what_trailing_finds_does_not_depend_on_later_bars(make_bars, seed, cut, jump, row):
    bars = rescaled(make_bars(seed, 400), row, jump)
    now = outliers(bars.head(cut), z=6.0)
    later = [f for f in outliers(bars, z=6.0) if f.end <= bars["timestamp"][cut - 1]]
    assert list(now) == later


def test_the_whole_sample_does_let_later_bars_decide(make_bars):
    """The reason why a policy that changes data may not use it: a wild future makes today's outlier ordinary."""
    calm, wild = make_bars(3, 200, volatility=0.001), make_bars(4, 800, volatility=0.2)
    both = pl.concat([calm, wild.with_columns(timestamp=pl.col("timestamp") + pl.duration(days=200))])
    jump = rescaled(both, 150, 1.1)
    at = jump["timestamp"][150]
    assert at in [f.start for f in outliers(jump.head(200), scale="sample")]
    assert at not in [f.start for f in outliers(jump, scale="sample")]
    assert at in [f.start for f in outliers(jump)]


def test_the_first_fifty_returns_are_not_judged(make_bars):
    assert outliers(rescaled(make_bars(5, 200), 40, 5.0)) == ()
    assert len(outliers(rescaled(make_bars(5, 200), 55, 5.0))) == 1


def test_where_most_bars_do_not_move_the_mean_takes_the_medians_place(make_bars):
    bars = make_bars(6, 400, still_share=0.8)
    assert outliers(bars) == ()
    assert len(outliers(rescaled(bars, 300, 3.0))) == 1


def test_a_market_that_never_moved_is_not_judged(write_bars):
    assert outliers(write_bars([[5.0]] * 100)) == ()
    assert outliers(write_bars([[5.0]] * 100), scale="sample") == ()
    assert outliers(write_bars([[5.0]] * 100 + [[6.0]])) == ()


@pytest.mark.parametrize("scale", ["trailing", "sample"])
def test_a_handful_of_bars_is_not_judged(write_bars, scale):
    assert outliers(write_bars([[1.0]]), scale=scale) == ()
    assert outliers(write_bars([[1.0], [2.0], [1.0]]), scale=scale) == ()


def thin_market(write_bars, moves, *, volume=None):
    """Thirty days on which one price was traded, then closes that change by `moves`."""
    price, rows = 0.2, [[0.2]] * 30
    for move in moves:
        price *= move
        rows.append([price])
    return write_bars(rows, volume=volume)


def test_a_price_doubled_or_halved_where_hardly_anybody_trades_is_a_thin_move(write_bars):
    bars = thin_market(write_bars, [2.0, 1.9, 0.5, 0.51])
    assert [f.start for f in find_thin_moves(bars)] == [bars["timestamp"][30], bars["timestamp"][32]]
    assert (
        find_thin_moves(bars)[0].detail
        == "close is 2 times the one before, and 100% of the bars before had at most one price"
    )


def test_days_without_volume_are_thin_too(write_bars):
    bars = write_bars(
        [[1.0, 1.1, 0.9, 1.0]] * 30 + [[2.0, 2.2, 1.9, 2.1]], volume=[0.0] * 15 + [9.0] * 5 + [0.0] * 10 + [5.0]
    )
    assert len(find_thin_moves(bars)) == 1
    assert find_thin_moves(bars.with_columns(volume=pl.lit(None, pl.Float64))) == ()


def test_the_same_move_in_a_traded_market_is_not_thin(make_bars):
    assert find_thin_moves(rescaled(make_bars(11, 100), 60, 3.0)) == ()


def test_one_bar_has_no_thin_move(write_bars):
    assert find_thin_moves(write_bars([[5.0]])) == ()
