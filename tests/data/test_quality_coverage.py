"""What a picture of a table is made of: cells of coverage and sketches of prices, small whatever the table's size."""

import datetime as dt

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import Timeframe
from quantfleet_data.quality import CoverageCount, Finding, count_bars, sketch_prices, symbols_to_sketch

HOUR = Timeframe("1h")
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def stamps(hours):
    return pl.Series([START + h * HOUR.delta for h in hours], dtype=pl.Datetime("us", "UTC"))


def covered(tables, *, hours, union=None):
    count = CoverageCount(list(tables), START, START + (hours - 1) * HOUR.delta, HOUR)
    for symbol, own in tables.items():
        count.add(symbol, *count_bars(stamps(own), count.edges, HOUR, union))
    return count.finish()


def finding(symbol="AAA", check="outliers", at=0, **changes):
    time = START + at * HOUR.delta
    fields = {
        "check": check,
        "symbol": symbol,
        "start": time,
        "end": time,
        "bars": 1,
        "detail": "",
        "severity": "warning",
    }
    return Finding(**{**fields, **changes})


def test_a_cell_says_how_much_of_what_is_due_is_there():
    """Cells of seven hours: all, six of seven, three of seven, none, not listed any more."""
    hours = [*range(7), *range(7, 13), 14, 15, 16, 28]
    (row,) = covered({"AAA": hours}, hours=42).rows
    assert (row.label, row.symbols, row.cells) == ("AAA", 1, "53105.")


def test_where_the_market_closes_only_its_own_times_are_due():
    week = [h for h in range(70) if h % 7 < 5]
    (row,) = covered({"AAA": week}, hours=70, union=stamps(week)).rows
    assert set(row.cells) == {"5"}
    (row,) = covered({"AAA": week}, hours=70).rows
    assert set(row.cells[:-1]) == {"2"}


def test_a_table_of_any_size_has_at_most_48_rows_of_120_cells():
    tables = {f"S{i:04d}": [0, 1, 9_999] for i in range(1000)}
    cover = covered(tables, hours=10_000)
    assert (len(cover.rows), {len(row.cells) for row in cover.rows}) == (48, {120})
    assert sum(row.symbols for row in cover.rows) == 1000
    assert cover.rows[0].label == "S0000 … S0020"


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 199), min_size=1), st.booleans())
def test_every_bar_is_counted_in_one_cell_and_none_is_due_outside_first_and_last(hours, closes):
    own = sorted(hours)
    union = stamps([h for h in range(200) if h % 3]) if closes else None
    count = CoverageCount(["AAA"], START, START + 199 * HOUR.delta, HOUR)
    there, due = count_bars(stamps(own), count.edges, HOUR, union)
    assert there.sum() == len(own)
    assert due.sum() == sum(own[0] <= h <= own[-1] and (not closes or h % 3 > 0) for h in range(200))


def test_a_sketch_keeps_the_extremes_and_the_bars_beside_the_most_telling_finding(make_bars):
    bars = make_bars(1, 5000, timeframe="1h")
    sketch = sketch_prices(bars, [finding(at=100), finding(check="splits", at=2000)])
    assert len(sketch.times) == 160
    assert (min(sketch.low), max(sketch.high)) == (
        bars["close"].round_sig_figs(6).min(),
        bars["close"].round_sig_figs(6).max(),
    )
    assert len(sketch.around) == 25
    assert sketch.around[12][0] == int(bars["timestamp"][2000].timestamp())


def test_the_symbols_worth_a_chart_are_few_and_the_gravest_come_first():
    found = {f"S{i:02d}": [finding(f"S{i:02d}")] for i in range(30)}
    found |= {"A": [finding("A", "gaps")], "Z": [finding("Z", "token_swaps")], "Y": [finding("Y")] * 5}
    chosen = symbols_to_sketch(found)
    assert chosen[:3] == ["Z", "Y", "S00"]
    assert len(chosen) == 12


def test_no_bar_is_due_while_the_market_is_closed(make_bars):
    """Two sessions of 30 hours with a break of 48 in between; one bar of the second is missing."""
    index = pl.int_range(pl.len())
    bars = make_bars(0, 108, timeframe="1h").filter((index < 30) | ((index >= 78) & (index != 90)))
    edges = np.array([bars["timestamp"][0].timestamp() + 3600 * hours for hours in (0, 54, 108)]) * 1_000_000
    there, due = count_bars(bars["timestamp"], edges.astype(np.int64), Timeframe("1h"), None, dt.timedelta(hours=40))
    assert (there.tolist(), due.tolist()) == ([30, 29], [30, 30])
    _, always_due = count_bars(bars["timestamp"], edges.astype(np.int64), Timeframe("1h"), None)
    assert always_due.tolist() == [54, 54]
