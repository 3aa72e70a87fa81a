"""The times of many symbols added up: what is due, and when an exchange stood still."""

import datetime as dt
import itertools
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import Timeframe
from quantfleet.errors import EmptyTableError
from quantfleet_data.quality import MARKET, MarketTimes, sum_up_times

HOUR = Timeframe("1h")
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def hour(n):
    return START + n * HOUR.delta


def bars_at(hours, *, symbol="AAA", silent=()):
    stamps = [hour(h) for h in hours]
    volume = [0.0 if h in set(silent) else 1.0 for h in hours]
    return pl.DataFrame(
        {"symbol": [symbol] * len(stamps), "timestamp": stamps, "volume": volume},
        schema={"symbol": pl.String, "timestamp": pl.Datetime("us", "UTC"), "volume": pl.Float64},
    )


def market(*tables):
    times = MarketTimes(HOUR)
    for table in tables:
        times.add(sum_up_times(table, HOUR))
    return times


def halts(times, *, continuous=True, share=0.8, symbols=5):
    return times.halts(continuous=continuous, share=share, symbols=symbols)


def test_a_symbol_is_summed_up_as_runs_of_bars():
    times = sum_up_times(bars_at([0, 1, 2, 5, 6, 6, 9]), HOUR)
    in_hours = (times.present_R2 - [times.first, 0]) / [3.6e9, 1]
    assert in_hours.tolist() == [[0, 3], [5, 2], [9, 1]]
    assert times.bars == 6


def test_no_bars_cannot_be_summed_up():
    with pytest.raises(EmptyTableError, match="no bars whose times"):
        sum_up_times(bars_at([]), HOUR)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.floats(0, 40).map(lambda h: round(h * 4) / 4), min_size=1), min_size=1, max_size=6),
    st.randoms(),
)
def test_the_union_is_every_time_that_any_symbol_has_on_the_grid_or_off_it(symbols, random):
    tables = [bars_at(sorted(hours), symbol=f"S{i}") for i, hours in enumerate(symbols)]
    expected = pl.concat(tables)["timestamp"].unique().sort()
    random.shuffle(tables)
    assert market(*tables).union().equals(expected)


def test_memory_does_not_grow_with_bars_or_symbols_that_trade_without_a_break():
    hours = range(5_000)
    times = market(*(bars_at(hours, symbol=f"S{i}") for i in range(40)))
    assert (times.symbols, times.bars) == (40, 200_000)
    assert len(times.union()) == 5_000
    assert len(times._changes_E4) == 2
    assert len(pickle.dumps(sum_up_times(bars_at(hours), HOUR))) < 1_000


def test_a_stop_of_nearly_all_symbols_is_a_halt_and_says_how_long():
    tables = [bars_at([h for h in range(50) if not 20 <= h <= 22], symbol=f"S{i}") for i in range(9)]
    (found,) = halts(market(*tables, bars_at(range(50), symbol="OTC")))
    assert (found.check, found.symbol, found.start, found.end, found.bars) == ("halts", MARKET, hour(20), hour(22), 3)
    assert found.detail == "no bars of 9 of 10 symbols for 3 bars (4 h from bar to bar)"
    assert (found.known_at, found.hindsight) == (hour(23), False)


def test_bars_without_volume_beside_missing_ones_belong_to_the_halt():
    tables = [bars_at([h for h in range(100) if not 20 <= h <= 21], symbol=f"S{i}", silent=(18, 19)) for i in range(6)]
    (found,) = halts(market(*tables))
    assert (found.start, found.bars) == (hour(18), 4)
    assert (
        found.detail == "no bars of 6 of 6 symbols for 2 bars (3 h from bar to bar), no volume in 6 of them for 2 bars"
    )


@pytest.mark.parametrize(("silent", "found"), [((20, 21), 0), ((20, 21, 22), 1)])
def test_without_a_missing_bar_three_silent_ones_in_a_row_are_needed(silent, found):
    tables = [bars_at(range(100), symbol=f"S{i}", silent=silent) for i in range(6)]
    assert len(halts(market(*tables))) == found


def test_symbols_that_are_often_silent_say_nothing_about_the_exchange():
    tables = [bars_at(range(100), symbol=f"S{i}", silent=range(20, 40)) for i in range(6)]
    assert halts(market(*tables)) == ()


def test_a_stop_of_half_the_symbols_or_of_a_handful_is_no_halt():
    stopped = [bars_at([h for h in range(50) if h != 20], symbol=f"S{i}") for i in range(4)]
    running = [bars_at(range(50), symbol=f"T{i}") for i in range(4)]
    assert halts(market(*stopped, *running)) == ()
    assert halts(market(*stopped)) == ()
    assert len(halts(market(*stopped), symbols=4)) == 1


def test_symbols_not_listed_yet_or_no_more_are_not_missed():
    early, late = ([bars_at(hours, symbol=f"{hours}{i}") for i in range(9)] for hours in (range(30), range(60, 90)))
    assert halts(market(*early, *late), continuous=True) == ()


def test_where_the_market_closes_only_times_with_some_bar_are_due():
    week = [h for h in range(100) if h % 10 < 6]
    tables = [bars_at(week, symbol=f"S{i}") for i in range(8)]
    hole = [bars_at([h for h in week if h != 42], symbol=f"T{i}") for i in range(40)]
    assert halts(market(*tables), continuous=False) == ()
    assert [f.start for f in halts(market(*tables, *hole), continuous=False)] == [hour(42)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.integers(1, 28)), min_size=5, max_size=9))
def test_halts_are_what_counting_hour_by_hour_finds(lost):
    """Every symbol has its first and last hour and lacks some between."""
    tables = [bars_at([h for h in range(30) if h not in own], symbol=f"S{i}") for i, own in enumerate(lost)]
    missing = np.array([sum(h in own for own in lost) for h in range(30)])
    expected = {h for h in range(30) if missing[h] >= 0.8 * len(lost)}
    found = halts(market(*tables))
    hours = {(f.start - START) // HOUR.delta + i for f in found for i in range(f.bars)}
    assert hours == expected
    assert all(b.start > a.end + HOUR.delta for a, b in itertools.pairwise(found))
