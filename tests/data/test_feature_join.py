"""The point-in-time join: what was known when a decision was made, and nothing later."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantfleet.contracts import Timeframe
from quantfleet.errors import SchemaError, TimeError
from quantfleet_data.feature_store import point_in_time_join

HOUR = Timeframe("1h")
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
UTC = pl.Datetime("us", "UTC")


def features(*rows: tuple[str, float, float]) -> pl.DataFrame:
    """(symbol, hours after START at which the bar opens, value)."""
    drawn = [(symbol, START + dt.timedelta(hours=hours), value) for symbol, hours, value in rows]
    return pl.DataFrame(drawn, schema={"symbol": pl.String, "timestamp": UTC, "rsi_14": pl.Float64}, orient="row")


def events(*rows: tuple[str, float]) -> pl.DataFrame:
    drawn = [(symbol, START + dt.timedelta(hours=hours)) for symbol, hours in rows]
    return pl.DataFrame(drawn, schema={"symbol": pl.String, "time": UTC}, orient="row")


def test_a_row_counts_from_the_close_of_its_bar_on():
    joined = point_in_time_join(
        events(("A", 0.99), ("A", 1.0), ("A", 1.5), ("A", 2.0)), features(("A", 0, 1.0), ("A", 1, 2.0)), HOUR
    )
    assert joined["rsi_14"].to_list() == [None, 1.0, 1.0, 2.0]
    assert joined["feature_timestamp"].to_list()[-1] == START + dt.timedelta(hours=1)


def test_events_keep_their_order_and_symbols_never_mix():
    joined = point_in_time_join(
        events(("B", 9), ("A", 2), ("C", 9), ("B", 1)), features(("A", 0, 1.0), ("B", 0, 7.0)), HOUR
    )
    assert joined["symbol"].to_list() == ["B", "A", "C", "B"]
    assert joined["rsi_14"].to_list() == [7.0, 1.0, None, 7.0]


def test_what_was_known_too_long_ago_is_not_joined():
    joined = point_in_time_join(
        events(("A", 3), ("A", 3.5)), features(("A", 0, 1.0)), HOUR, max_age=dt.timedelta(hours=2)
    )
    assert joined["rsi_14"].to_list() == [1.0, None]


@given(
    bars=st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 20)), unique=True, max_size=15),
    asked=st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 25)), max_size=15),
)
def test_the_join_equals_a_search_through_every_row(bars, asked):
    table = features(*((symbol, hours, float(hours)) for symbol, hours in bars))
    joined = point_in_time_join(events(*asked), table, HOUR)
    expected = [
        max((float(opened) for s, opened in bars if s == symbol and opened + 1 <= time), default=None)
        for symbol, time in asked
    ]
    assert joined["rsi_14"].to_list() == expected


def test_times_without_a_zone_and_columns_in_both_tables_are_refused():
    table = features(("A", 0, 1.0))
    with pytest.raises(TimeError, match=r"events\.time is .*give it as a time in UTC"):
        point_in_time_join(pl.DataFrame({"symbol": ["A"], "time": [dt.datetime(2024, 1, 1)]}), table, HOUR)
    with pytest.raises(SchemaError, match="both tables have rsi_14"):
        point_in_time_join(events(("A", 1)).with_columns(rsi_14=pl.lit(1.0)), table, HOUR)
    with pytest.raises(SchemaError, match="the features lack the column timestamp"):
        point_in_time_join(events(("A", 1)), table.drop("timestamp"), HOUR)
