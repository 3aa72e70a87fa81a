"""Bars that cannot be of their timeframe are refused; gaps, sessions and odd offsets are not mistaken for that."""

import datetime as dt

import polars as pl
import pytest

from quantfleet.contracts import Timeframe
from quantfleet.errors import TimeError
from quantfleet_data.sources.clock import as_utc, check_timeframe, closed_bars, grid_seconds

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


def bars_at(*times: dt.datetime, symbol: str = "A") -> pl.DataFrame:
    return pl.DataFrame(
        {"symbol": [symbol] * len(times), "timestamp": pl.Series(times, dtype=pl.Datetime("us", "UTC"))}
    )


@pytest.mark.parametrize(
    ("timeframe", "times"),
    [
        ("1d", [START + i * DAY for i in range(60) if (START + i * DAY).weekday() < 5]),
        ("1w", [START + 7 * i * DAY for i in range(60)]),
        ("1h", [START + HOUR * i + dt.timedelta(minutes=30) for i in range(60)]),
        ("1h", [START + HOUR * (24 * d + 14 + i) for d in range(10) for i in range(7)]),
        ("1m", [START, START + HOUR, START + HOUR + dt.timedelta(minutes=1)]),
        ("1h", [START + 2 * HOUR * i for i in range(30)]),
    ],
    ids=["weekdays", "weeks", "half-past", "sessions", "illiquid", "too-few-steps-to-tell"],
)
def test_real_markets_pass(timeframe, times):
    check_timeframe(bars_at(*times), Timeframe(timeframe), where="x")


@pytest.mark.parametrize(
    ("timeframe", "times", "message"),
    [
        ("1d", [START + DAY * i + 5 * HOUR for i in range(3)], "3 bars of 1d do not open at 00:00 UTC"),
        ("1d", [START + HOUR * i for i in (0, 24, 36)], "1 bars of 1d do not open at 00:00 UTC"),
        ("1h", [START, START + HOUR / 2, START + HOUR], "2 bars open less than 1h after the bar before.* after 1800 s"),
        ("1h", [START + 4 * HOUR * i for i in range(31)], "all 30 steps of A are multiples of 14400 s"),
        ("1d", [START + 7 * DAY * i for i in range(40)], "all 39 steps of A are multiples of 604800 s"),
    ],
    ids=["midnight-elsewhere", "noon", "half-hours", "four-hours", "weeks-as-days"],
)
def test_bars_of_another_timeframe_are_refused(timeframe, times, message):
    with pytest.raises(TimeError, match=message):
        check_timeframe(bars_at(*times), Timeframe(timeframe), where="x")


def test_two_symbols_do_not_overlap_each_other():
    both = pl.concat([bars_at(START, START + HOUR), bars_at(START + HOUR / 2, symbol="B")])
    check_timeframe(both, Timeframe("1h"), where="x")


def test_a_bar_is_closed_at_the_very_moment_it_ends():
    bars = bars_at(START, START + HOUR)
    tick = dt.timedelta(microseconds=1)
    assert closed_bars(bars, Timeframe("1h"), START + 2 * HOUR).height == 2
    assert closed_bars(bars, Timeframe("1h"), START + 2 * HOUR - tick).height == 1
    assert closed_bars(bars, Timeframe("1h"), START + HOUR - tick).height == 0


def test_now_may_be_given_in_any_zone():
    tokyo = (START + HOUR).astimezone(dt.timezone(dt.timedelta(hours=9)))
    assert closed_bars(bars_at(START), Timeframe("1h"), tokyo).height == 1
    assert as_utc(tokyo) == START + HOUR
    assert as_utc(dt.datetime(2024, 1, 1)) == START


def test_only_timeframes_that_divide_a_day_have_one_grid():
    assert {text: grid_seconds(Timeframe(text)) for text in ("1m", "4h", "1d", "7h", "3d", "1w")} == {
        "1m": 60,
        "4h": 14_400,
        "1d": 86_400,
        "7h": None,
        "3d": None,
        "1w": None,
    }
