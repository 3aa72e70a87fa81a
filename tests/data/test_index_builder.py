"""An index of many assets: equal to a plain divisor computation, the same in any blocks, and blind to the future."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import BAR_COLUMNS, PRICE_COLUMNS, Timeframe, validate_bars
from quantfleet.errors import ConfigError, DataError, EmptyTableError, SchemaError, TimeError
from quantfleet.storage import Storage, StorageConfig
from quantfleet_data.ingest import IngestConfig, ingest
from quantfleet_data.instruments import IndexConfig, Instruments, aggregate_index, bar_blocks, build_index, join_index
from quantfleet_data.sources import FilesConfig

START = dt.datetime(2024, 1, 29, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
STAMP = pl.Datetime("us", "UTC")


def day(number: float) -> dt.datetime:
    return START + number * DAY


def frame(rows: Sequence[tuple[Any, ...]], schema: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema, orient="row")


BARS = {
    "symbol": pl.String,
    "timestamp": STAMP,
    **dict.fromkeys(("open", "high", "low", "close", "volume"), pl.Float64),
}
LISTINGS = {"symbol": pl.String, "asset_class": pl.String, "quote": pl.String, "listed_at": STAMP, "delisted_at": STAMP}
ACTIONS = {
    "symbol": pl.String, "effective_at": STAMP, "kind": pl.String, "announced_at": STAMP, "ratio": pl.Float64,
    "cash": pl.Float64,
}  # fmt: skip
MEMBERS = {"index": pl.String, "symbol": pl.String, "start": STAMP, "end": STAMP}
WEIGHTS = {"symbol": pl.String, "known_at": STAMP, "value": pl.Float64}


def closes(**prices: Sequence[float | None]) -> pl.DataFrame:
    """Bars whose four prices are one, a day apart; None is no bar."""
    rows = [
        (symbol, day(i), p, p, p, p, 10.0)
        for symbol, own in sorted(prices.items())
        for i, p in enumerate(own)
        if p is not None
    ]
    return frame(rows, BARS)


def build(
    bars: pl.DataFrame, instruments: Instruments | None = None, weights: pl.DataFrame | None = None, **options: Any
):
    chosen = IndexConfig(**({"symbol": "^I", "base": 100.0} | options))
    return pl.concat(build_index([bars], chosen, instruments, weights=weights))


def levels(bars: pl.DataFrame, *args: Any, **options: Any) -> list[float]:
    return build(bars, *args, **options)["close"].to_list()


def actions(*rows: tuple[Any, ...]) -> Instruments:
    return Instruments(actions=frame(rows, ACTIONS))


def listing(symbol: str, listed: dt.datetime | None = None, delisted: dt.datetime | None = None) -> tuple[Any, ...]:
    return (symbol, "equity", "USD", listed, delisted)


# --- By hand ---------------------------------------------------------------------------------------------------------


def test_an_index_of_one_asset_has_its_returns_bar_for_bar(make_bars):
    bars = make_bars(1, 250)
    for weighting in ("equal", "price"):
        index = build(bars, weighting=weighting)
        assert validate_bars(index, where="index").equals(index)
        before = bars["close"].shift(1)[1:]
        level = index["close"].shift(1).fill_null(100.0)
        for name in PRICE_COLUMNS:
            np.testing.assert_allclose(index[name] / level, bars[name][1:] / before, rtol=1e-12)
        np.testing.assert_allclose(index["volume"], (bars["close"] * bars["volume"])[1:], rtol=1e-12)


def test_equal_weights_are_set_again_each_day_or_drift():
    bars = closes(A=[10.0, 20.0, 20.0], B=[10.0, 10.0, 20.0])
    assert levels(bars, rebalance="day") == pytest.approx([150.0, 225.0])
    assert levels(bars, rebalance="never") == pytest.approx([150.0, 200.0])
    assert levels(bars, rebalance="month") == pytest.approx([150.0, 200.0])  # 2024-01-29 to 01-31


def test_a_month_begins_with_its_first_bar():
    bars = closes(A=[10.0, 20.0, 20.0, 40.0], B=[10.0, 10.0, 10.0, 10.0])  # the last bar is of 1 February
    assert levels(bars, rebalance="month") == pytest.approx([150.0, 150.0, 225.0])
    assert levels(bars, rebalance="never") == pytest.approx([150.0, 150.0, 250.0])


def test_price_weights_are_one_unit_of_each():
    assert levels(closes(A=[10.0, 20.0], B=[90.0, 90.0]), weighting="price") == pytest.approx([110.0])


def test_share_counts_weigh_by_what_was_known_at_the_open():
    bars = closes(A=[10.0, 20.0, 40.0], B=[10.0, 10.0, 10.0])
    shares = frame([("A", day(-9), 1.0), ("B", day(-9), 3.0), ("A", day(2), 5.0)], WEIGHTS)
    # 40 -> 50; then A counts five times: 100 + 30 -> 200 + 30
    assert levels(bars, weights=shares, weighting="cap") == pytest.approx([125.0, 125.0 * 230 / 130])
    late = frame([("A", day(-9), 1.0), ("B", day(-9), 3.0), ("A", day(2) + dt.timedelta(seconds=1), 5.0)], WEIGHTS)
    assert levels(bars, weights=late, weighting="cap") == pytest.approx([125.0, 125.0 * 70 / 50])


def test_given_weights_hold_from_the_bar_after_they_are_known_and_zero_is_out():
    bars = closes(A=[10.0, 20.0, 40.0], B=[10.0, 10.0, 5.0], C=[1.0, 9.0, 1.0])
    weights = frame([("A", day(0), 1.0), ("B", day(0), 1.0), ("A", day(2), 0.0)], WEIGHTS)
    assert levels(bars, weights=weights, weighting="given") == pytest.approx([150.0, 75.0])


def test_a_change_of_members_does_not_move_the_level():
    bars = closes(A=[10.0, 10.0, 10.0, 10.0], B=[70.0, 80.0, 90.0, 99.0], C=[1.0, 5.0, 5.0, 5.0])
    members = frame([("X", "A", day(-9), None), ("X", "C", day(2), None), ("X", "B", day(-9), day(1))], MEMBERS)
    assert levels(bars, Instruments(memberships=members), members="X") == pytest.approx([100.0, 100.0, 100.0])


def test_a_new_listing_counts_from_its_second_bar():
    bars = closes(A=[10.0, 10.0, 10.0], B=[None, 5.0, 10.0])
    assert levels(bars) == pytest.approx([100.0, 150.0])


def test_a_constituent_without_bars_keeps_its_price_for_so_many_bars_and_is_out_until_it_trades():
    bars = closes(A=[10.0] * 8, B=[10.0, None, None, 20.0, None, None, None, 80.0])
    assert levels(bars, max_missing_bars=3) == pytest.approx([100, 100, 150, 150, 150, 150, 150])
    assert levels(bars, max_missing_bars=4) == pytest.approx([100, 100, 150, 150, 150, 150, 375])
    assert levels(bars, max_missing_bars=2) == pytest.approx([100, 100, 100, 100, 100, 100, 100])


def test_a_split_is_divided_out_of_the_price_before_it_whatever_the_weighting():
    bars, split = (
        closes(A=[10.0, 11.0, 5.5, 6.6], B=[10.0, 10.0, 10.0, 10.0]),
        actions(("A", day(2), "split", None, 2.0, None)),
    )
    shares = frame([("A", day(-1), 1.0), ("B", day(-1), 1.0)], WEIGHTS)
    expected = [105.0, 105.0, 105.0 * 23.2 / 21.0]
    assert levels(bars, split, rebalance="never") == pytest.approx(expected)
    assert levels(bars, split, shares, weighting="cap") == pytest.approx(expected)
    assert levels(bars, split, shares, weighting="given", rebalance="never") == pytest.approx(expected)
    assert levels(bars, split, weighting="price") == pytest.approx([105.0, 105.0, 105.0 * 16.6 / 15.5])


def test_a_split_announced_late_is_not_undone_in_the_bar_that_could_not_know_it():
    bars = closes(A=[10.0, 5.0, 5.0, 6.0], B=[10.0, 10.0, 10.0, 10.0])
    late = actions(("A", day(1), "split", day(2), 2.0, None))
    assert levels(bars, late, rebalance="never") == pytest.approx([75.0, 75.0, 75.0 * 22 / 20])


def test_dividends_count_when_they_are_reinvested_and_not_when_they_are_not():
    bars, paid = closes(A=[10.0, 9.0, 9.9], B=[10.0, 10.0, 10.0]), actions(("A", day(1), "dividend", day(0), None, 1.0))
    assert levels(bars, paid, reinvest_dividends=True)[0] == pytest.approx(100.0)
    assert levels(bars, paid)[0] == pytest.approx(95.0)


def test_a_dividend_on_the_day_of_a_split_is_paid_on_the_old_units():
    both = actions(("A", day(1), "split", None, 2.0, None), ("A", day(1), "dividend", None, None, 1.0))
    for weighting in ("equal", "price"):
        assert levels(closes(A=[10.0, 4.5]), both, weighting=weighting, reinvest_dividends=True) == pytest.approx(
            [100.0]
        )


@pytest.mark.parametrize(("delisting_return", "level"), [(0.0, 100.0), (-0.5, 75.0), (-1.0, 50.0)])
def test_a_delisted_constituent_leaves_at_its_last_price_and_the_stated_return(delisting_return, level):
    bars = closes(A=[10.0, 10.0, 10.0, 20.0], B=[10.0, 10.0, None, 99.0])
    listed = Instruments(listings=frame([listing("A"), listing("B", delisted=day(2))], LISTINGS))
    assert levels(bars, listed, delisting_return=delisting_return) == pytest.approx([100.0, level, 2 * level])


def test_high_and_low_enclose_every_value_the_index_had_in_the_bar(make_bars):
    fine = pl.concat([make_bars(i, 480, timeframe="1h", symbol=s) for i, s in enumerate("ABCDE")])
    daily = fine.group_by("symbol", pl.col("timestamp").dt.truncate("1d"), maintain_order=True).agg(
        open=pl.col("open").first(), high=pl.col("high").max(), low=pl.col("low").min(), close=pl.col("close").last(),
        volume=pl.col("volume").sum(),
    )  # fmt: skip
    hourly, coarse = build(fine, rebalance="never"), build(daily.select(BAR_COLUMNS), rebalance="never")
    sampled = aggregate_index(hourly, Timeframe("1d"), high_low="sampled")
    bounds = aggregate_index(hourly, Timeframe("1d"))
    both = coarse.join(sampled, on="timestamp", suffix="_s").join(bounds, on="timestamp", suffix="_b")
    scale = both["close"] / both["close_s"]  # the coarse index begins a day later
    assert ((both["high"] / scale) >= both["high_s"] - 1e-9).all()
    assert ((both["low"] / scale) <= both["low_s"] + 1e-9).all()
    assert (both["high_b"] >= both["high_s"]).all()
    assert ((both["high"] / scale) >= both["high_b"] - 1e-9).mean() > 0.9  # finer bars narrow the bounds
    assert (both["high_s"] >= both["close_s"]).all()


def test_weeks_of_an_index_begin_on_mondays():
    index = build(closes(A=[float(i) for i in range(10, 26)]))
    weeks = aggregate_index(index, Timeframe("1w"))
    assert weeks["timestamp"].to_list() == [day(0), day(7), day(14)]
    assert weeks["open"][1] == index["open"][6]
    assert weeks["close"][1] == index["close"][12]


# --- Against a plain divisor -----------------------------------------------------------------------------------------


def plain_index(
    bars: pl.DataFrame, spans: dict[str, list[tuple[int, int]]], splits, weights, options
) -> dict[int, float]:
    """The index by a divisor, with dictionaries and no arrays: level = sum(units * price) / divisor. Days are numbers."""
    quotes = {(s, (t - START).days): c for s, t, c in bars.select("symbol", "timestamp", "close").iter_rows()}
    days = sorted({d for _, d in quotes})
    price: dict[str, float] = {}
    age: dict[str, int] = {}
    units: dict[str, float] = {}
    level, divisor, result = 100.0, 1.0, {}
    for n, d in enumerate(days):
        for symbol, at, ratio in splits:
            if symbol in price and (days[n - 1] if n else -1) < at <= d:
                price[symbol] /= ratio
                if symbol in units and options["weighting"] != "price":
                    units[symbol] *= ratio
                elif symbol in units:
                    units = {}  # one unit of each again, at another divisor
        known = {s: v for s, at, v in sorted(weights, key=lambda w: w[1]) if at <= d}
        inside = {
            s for s in price
            if any(a <= d < b for a, b in spans[s]) and age[s] < options["max_missing_bars"]
            and (options["weighting"] != "given" or known.get(s, 0.0) > 0)
        }  # fmt: skip
        news = any(at == d and s in inside for s, at, _ in weights)
        if set(units) != inside or options["rebalance"] == "bar" or news:
            units = {
                s: {"equal": 1 / price[s], "price": 1.0, "given": known.get(s, 0.0) / price[s]}[options["weighting"]]
                for s in inside
            }
        if units:
            divisor = sum(units[s] * price[s] for s in sorted(units)) / level
        for symbol in spans:
            if (symbol, d) in quotes:
                price[symbol], age[symbol] = quotes[symbol, d], 0
            elif symbol in price:
                age[symbol] += 1
        if units:
            level = result[d] = sum(units[s] * price[s] for s in sorted(units)) / divisor
    return result


@st.composite
def markets(draw: st.DrawFn) -> tuple[Any, ...]:
    names, days = "ABCD"[: draw(st.integers(1, 4))], draw(st.integers(2, 14))
    price = st.floats(0.5, 200.0)
    own = {s: draw(st.lists(st.one_of(price, price, st.none()), min_size=days, max_size=days)) for s in names}
    cut = st.integers(0, days)
    spans = {s: [(a, b)] if (a := draw(cut)) < (b := draw(st.integers(0, days + 2))) else [] for s in names}
    split = st.tuples(st.sampled_from(names), st.integers(1, days), st.sampled_from([0.1, 2.0, 3.0]))
    splits = draw(st.lists(split, max_size=3, unique_by=lambda x: x[:2]))
    weight = st.tuples(st.sampled_from(names), st.integers(0, days), st.sampled_from([0.0, 1.0, 2.5]))
    weights = draw(st.lists(weight, max_size=6, unique_by=lambda x: x[:2]))
    options = {
        "weighting": draw(st.sampled_from(["equal", "price", "given"])),
        "rebalance": draw(st.sampled_from(["bar", "never"])),
        "max_missing_bars": draw(st.integers(1, 4)),
    }
    blocks = draw(st.lists(st.integers(1, days), max_size=3))
    return closes(**own), spans, splits, weights, options, sorted({0, *blocks, days + 1})


def tables(spans, splits, weights, options) -> tuple[Instruments, pl.DataFrame | None]:
    members = [("X", s, day(a), day(b)) for s, own in spans.items() for a, b in own] + [("X", "Z", day(0), None)]
    rows = [(s, day(at), "split", None, ratio, None) for s, at, ratio in splits]
    known = frame([(s, day(at), v) for s, at, v in weights], WEIGHTS) if options["weighting"] == "given" else None
    return Instruments(memberships=frame(members, MEMBERS), actions=frame(rows, ACTIONS)), known


def cut_by_days(bars: pl.DataFrame, edges: Sequence[int]) -> list[pl.DataFrame]:
    time = pl.col("timestamp")
    blocks = [bars.filter((time >= day(a)) & (time < day(b))) for a, b in itertools.pairwise(edges)]
    return [block for block in blocks if not block.is_empty()]


def try_build(blocks, instruments, weights, options) -> pl.DataFrame:
    config = IndexConfig(symbol="^I", members="X", base=100.0, **options)
    try:
        return pl.concat(build_index(blocks, config, instruments, weights=weights))
    except EmptyTableError:
        return pl.DataFrame(schema=BARS)


@given(market=markets())
@settings(max_examples=150)
def test_any_index_equals_the_plain_divisor_computation_in_any_blocks(market):
    bars, spans, splits, weights, options, edges = market
    if bars.is_empty():
        return
    instruments, known = tables(spans, splits, weights, options)
    whole = try_build([bars], instruments, known, options)
    expected = plain_index(bars, spans, splits, weights if known is not None else [], options)
    assert [(t - START).days for t in whole["timestamp"]] == list(expected)
    np.testing.assert_allclose(whole["close"], list(expected.values()), rtol=1e-9)
    assert try_build(cut_by_days(bars, edges), instruments, known, options).equals(whole)


@given(market=markets(), cut=st.integers(1, 14))
@settings(max_examples=60)
def test_what_comes_later_changes_no_bit_of_what_was(market, cut):
    bars, spans, splits, weights, options, _ = market
    past = bars.filter(pl.col("timestamp") < day(cut))
    if past.is_empty():
        return
    instruments, known = tables(spans, splits, weights, options)
    whole = try_build([bars], instruments, known, options).filter(pl.col("timestamp") < day(cut))
    then = {s: [(a, b if b < cut else 99) for a, b in own if a < cut] for s, own in spans.items()}
    early, known_then = tables(then, [s for s in splits if s[1] < cut], [w for w in weights if w[1] < cut], options)
    assert try_build([past], early, known_then, options).equals(whole)


# --- Real constituents -----------------------------------------------------------------------------------------------


def test_an_equal_weighted_sp500_moves_with_the_fund_that_holds_it(shared_data: Path):
    """The members of each day that are among 1,861 point-in-time stocks, against SPY out of another vendor's file."""
    pit = pl.read_parquet(shared_data / "pystock_us_stocks_pit_1d_2015-03_2016-03.parquet").sort("symbol", "timestamp")
    member = pl.read_parquet(shared_data / "sp500_membership_1996_2016-03.parquet").with_columns(index=pl.lit("SP500"))
    # What the file of each day says about the day before: splits and dividends, as published then.
    factor = pl.col("close").shift(1).over("symbol") / pl.col("prev_adj_close")
    jumps = pit.with_columns(ratio=factor).filter((pl.col("ratio") - 1).abs() > 1e-6)
    moves = jumps.select("symbol", "ratio", effective_at="timestamp", kind=pl.lit("split"))
    instruments = Instruments(memberships=member, actions=moves)
    months = pit.select(BAR_COLUMNS).group_by(pl.col("timestamp").dt.truncate("1mo"), maintain_order=False)
    blocks = [own.sort("symbol", "timestamp") for _, own in sorted(months, key=lambda part: part[0])]
    index = pl.concat(build_index(blocks, IndexConfig(symbol="^EW", members="SP500"), instruments))
    funds = pl.read_parquet(shared_data / "hugestock_us_etfs_adjusted_1d_1999_2016-03.parquet")
    own = funds.filter(pl.col("symbol") == "SPY").select("timestamp", fund=pl.col("close").pct_change())
    both = index.with_columns(pl.col("close").pct_change()).join(own, on="timestamp").drop_nulls(["close", "fund"])
    assert both.height > 240
    assert np.corrcoef(both["close"], both["fund"])[0, 1] > 0.97
    assert abs((both["close"] - both["fund"]).mean()) < 5e-4


def test_bars_of_the_lake_come_in_blocks_of_time_and_make_the_same_index(tmp_path: Path, make_bars):
    bars = pl.concat([make_bars(i, 90 + i, symbol=s) for i, s in enumerate("ABC")])
    bars.write_parquet(tmp_path / "bars.parquet")
    storage = Storage(StorageConfig(root=str(tmp_path / "lake")))
    vendors = [FilesConfig(path=str(tmp_path / "bars.parquet"), name=name) for name in ("one", "two")]
    first = ingest(IngestConfig(sources=(vendors[0],), timeframe="1d"), storage, now_utc=day(0)).after
    blocks = list(bar_blocks(storage, "1d", first.version, days=7))
    assert pl.concat(blocks).sort("symbol", "timestamp").equals(bars)
    assert len(blocks) == 14
    assert pl.concat(build_index(blocks, IndexConfig(symbol="^I", base=100.0))).equals(build(bars))
    assert set(pl.concat(bar_blocks(storage, "1d", symbols=("B",)))["symbol"]) == {"B"}
    ingest(IngestConfig(sources=(vendors[1],), timeframe="1d"), storage, now_utc=day(0))
    with pytest.raises(DataError, match="holds bars of one and two; name one: source='one'"):
        list(bar_blocks(storage, "1d"))
    assert pl.concat(bar_blocks(storage, "1d", source="two")).height == bars.height
    with pytest.raises(EmptyTableError, match="no bars of those symbols"):
        list(bar_blocks(storage, "1d", symbols=("Z",)))
    with pytest.raises(ConfigError, match="days=0"):
        list(bar_blocks(storage, "1d", days=0))


# --- Joined to the constituents --------------------------------------------------------------------------------------


def test_the_index_joins_by_equal_time_only_and_leaves_rows_as_they_are():
    bars, index = closes(A=[1.0, 2.0, 3.0, 4.0]), build(closes(B=[1.0, 2.0, None, 8.0], C=[1.0, 1.0, None, 1.0]))
    joined = join_index(bars, index)
    assert joined.select(bars.columns).equals(bars)
    assert joined["index_close"].to_list() == [None, index["close"][0], None, index["close"][1]]
    assert joined.columns[-5:] == ["index_open", "index_high", "index_low", "index_close", "index_volume"]
    with pytest.raises(SchemaError, match="already"):
        join_index(joined, index)
    with pytest.raises(DataError, match="several symbols: A, B"):
        join_index(bars, closes(A=[1.0], B=[1.0]))
    with pytest.raises(TimeError, match="duplicated"):
        join_index(bars, pl.concat([index, index]).sort("timestamp"))


# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbol": ""}, "symbol is empty"),
        ({"base": 0.0}, "base=0.0"),
        ({"max_missing_bars": 0}, "known only after it"),
        ({"delisting_return": -1.5}, "delisting_return=-1.5"),
    ],
)
def test_a_wrong_setting_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        IndexConfig(**({"symbol": "^I"} | options))


def test_what_cannot_make_an_index_is_said():
    bars = closes(A=[1.0, 2.0], B=[1.0, 2.0])
    some = frame([("A", day(0), 1.0)], WEIGHTS)
    with pytest.raises(ConfigError, match="needs share counts in `weights`"):
        levels(bars, weighting="cap")
    with pytest.raises(ConfigError, match="takes no `weights`"):
        levels(bars, weights=some)
    with pytest.raises(DataError, match=r"no share count of B is known at 2024-01-30"):
        levels(bars, weights=some, weighting="cap")
    with pytest.raises(DataError, match="0 or more"):
        levels(bars, weights=some.with_columns(value=-pl.col("value")), weighting="cap")
    with pytest.raises(TimeError, match="known_at is"):
        levels(bars, weights=some.with_columns(pl.col("known_at").dt.replace_time_zone(None)), weighting="cap")
    with pytest.raises(DataError, match="two values of one symbol"):
        levels(bars, weights=pl.concat([some, some]), weighting="given")
    with pytest.raises(DataError, match=r"no index 'SP5OO'"):
        levels(bars, Instruments(memberships=frame([("SP500", "A", day(0), None)], MEMBERS)), members="SP5OO")
    with pytest.raises(TimeError, match="begins before the last one ended"):
        list(build_index([bars, bars], IndexConfig(symbol="^I")))
    with pytest.raises(EmptyTableError, match="not one bar"):
        list(build_index([closes(A=[1.0])], IndexConfig(symbol="^I")))
