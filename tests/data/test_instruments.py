"""The universe of any past day, what is refused in its tables, and prices across splits without hindsight."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantfleet.contracts import PRICE_COLUMNS, Timeframe
from quantfleet.errors import ConfigError, DataError, EmptyTableError, OutputExistsError, SchemaError, TimeError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.instruments import (
    InstrumentFile,
    Instruments,
    InstrumentsConfig,
    adjust_backward,
    adjust_forward,
    listings_from_bars,
    load_instruments,
    read_instruments,
    write_instruments,
)

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
STAMP = pl.Datetime("us", "UTC")
DAILY = Timeframe("1d")


def day(number: float) -> dt.datetime:
    return START + dt.timedelta(days=number)


def listings(*rows: Sequence[Any]) -> pl.DataFrame:
    """Rows of symbol, listed_at, delisted_at."""
    schema = {"symbol": pl.String, "listed_at": STAMP, "delisted_at": STAMP}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        asset_class=pl.lit("equity"), quote=pl.lit("USD")
    )


def members(*rows: Sequence[Any]) -> pl.DataFrame:
    return pl.DataFrame(
        rows, schema={"index": pl.String, "symbol": pl.String, "start": STAMP, "end": STAMP}, orient="row"
    )


def actions(*rows: dict[str, Any]) -> pl.DataFrame:
    schema = {
        "symbol": pl.String, "effective_at": STAMP, "announced_at": STAMP, "kind": pl.String, "ratio": pl.Float64,
        "cash": pl.Float64, "new_symbol": pl.String,
    }  # fmt: skip
    return pl.DataFrame([{"symbol": "AAA", "kind": "split"} | row for row in rows], schema=schema)


# --- The universe ----------------------------------------------------------------------------------------------------


def test_a_delisted_asset_stays_in_the_universe_of_the_days_it_belongs_to():
    table = Instruments(listings=listings(("OLD", None, day(5)), ("NEW", day(5), None), ("ALL", None, None)))
    assert table.universe(dt.date(1900, 1, 1)) == ("ALL", "OLD")
    assert table.universe(day(5) - dt.timedelta(microseconds=1)) == ("ALL", "OLD")
    assert table.universe(dt.date(2020, 1, 6)) == table.universe(day(5)) == ("ALL", "NEW")


def test_a_reused_ticker_is_two_listings():
    table = Instruments(listings=listings(("X", None, day(3)), ("X", day(8), None)))
    assert [bool(table.universe(day(n))) for n in (2, 3, 7, 8)] == [True, False, False, True]


def test_members_of_an_index_are_cut_to_their_listing_and_unlisted_ones_count_as_listed():
    table = Instruments(
        listings=listings(("A", day(0), day(5))),
        memberships=members(("I", "A", day(2), None), ("I", "B", day(0), day(4)), ("J", "C", day(0), None)),
    )
    assert [table.universe(day(n), "I") for n in (1, 2, 4, 5)] == [("B",), ("A", "B"), ("A",), ()]
    with pytest.raises(DataError, match=r"no index 'K'.* Known: I, J"):
        table.universe(day(1), "K")
    with pytest.raises(EmptyTableError, match="takes an index"):
        Instruments().universe(day(1))
    with pytest.raises(TimeError, match="naive"):
        table.universe(dt.datetime(2020, 1, 1), "I")


def test_names_are_followed_through_renames_known_by_then():
    moves = actions(
        {"symbol": "FB", "kind": "rename", "effective_at": day(10), "new_symbol": "META"},
        {
            "symbol": "META",
            "kind": "swap",
            "effective_at": day(20),
            "new_symbol": "MMM",
            "ratio": 0.1,
            "announced_at": day(25),
        },
    )
    table = Instruments(actions=moves)
    assert [table.symbol_at("FB", day(n), since=day(0)) for n in (9, 10, 24, 25)] == ["FB", "META", "META", "MMM"]
    assert table.symbol_at("META", day(15), since=day(0)) == "META"


@given(
    spans=st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 20), st.integers(1, 9)), max_size=12),
    at=st.integers(-1, 32),
)
def test_a_universe_holds_exactly_the_intervals_that_cover_the_day(spans, at):
    kept: list[tuple[str, int, int]] = []
    for symbol, start, length in spans:
        if all(symbol != s or start + length <= a or b <= start for s, a, b in kept):
            kept.append((symbol, start, start + length))
    table = Instruments(memberships=members(("I", "Z", day(99), None), *(("I", s, day(a), day(b)) for s, a, b in kept)))
    assert table.universe(day(at), "I") == tuple(sorted({s for s, a, b in kept if a <= at < b}))


# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "error", "message"),
    [
        ({"listings": listings(("A", day(5), day(5)))}, TimeError, "A is delisted at .* not after its listing"),
        ({"listings": listings(("A", day(1), None), ("A", day(5), None))}, TimeError, "two intervals of A overlap"),
        ({"listings": listings(("A", None, day(4)), ("A", None, day(9)))}, TimeError, "two intervals of A overlap"),
        ({"listings": listings(("A", day(1), day(6)), ("A", day(5), None))}, TimeError, "two intervals of A overlap"),
        ({"listings": listings(("A", None, None)).with_columns(tick=pl.lit(0.0))}, DataError, "A has tick=0.0"),
        ({"listings": listings(("", None, None))}, SchemaError, "column 'symbol' is empty in 1 rows"),
        ({"listings": listings(("A", None, None)).drop("quote")}, SchemaError, "no column 'quote'"),
        ({"listings": listings(("A", None, None)).with_columns(tik=1.0)}, SchemaError, r"'tik'. Did you mean 'tick'\?"),
        (
            {"listings": listings(("A", day(0), None)).with_columns(pl.col("listed_at").dt.replace_time_zone(None))},
            TimeError,
            "times in 'listed_at' are naive",
        ),
        ({"memberships": members(("I", "A", day(3), day(2)))}, TimeError, "A leaves I at .*, not after its start"),
        ({"memberships": members(("I", "A", day(0), day(9)), ("I", "A", day(8), None))}, TimeError, "of I A overlap"),
        (
            {"listings": listings(("A", day(5), None)), "memberships": members(("I", "A", day(0), day(5)))},
            DataError,
            "at no time of which it is listed",
        ),
        ({"actions": actions({"effective_at": day(0)})}, DataError, "is a split, which needs `ratio`"),
        ({"actions": actions({"effective_at": day(0), "ratio": -2.0})}, DataError, "ratio=-2.0"),
        ({"actions": actions({"effective_at": day(0), "kind": "splt"})}, DataError, r"'splt'. Did you mean 'split'\?"),
        ({"actions": actions({"effective_at": day(0), "ratio": 2.0, "cash": 1.0})}, DataError, "which has no `cash`"),
        ({"actions": actions({"effective_at": day(0), "kind": "merger", "ratio": 1.0})}, DataError, "needs `cash`, or"),
        (
            {"actions": actions({"effective_at": day(0), "kind": "rename", "new_symbol": "AAA"})},
            DataError,
            "from AAA to itself",
        ),
        ({"actions": actions(*[{"effective_at": day(0), "ratio": 2.0}] * 2)}, DataError, "two of kind split at one time"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_true_are_refused_with_the_first_row(tables, error, message):
    with pytest.raises(error, match=message) as caught:
        Instruments(**tables)
    assert type(caught.value) is error


def test_intervals_that_touch_are_not_overlaps():
    Instruments(listings=listings(("A", None, day(5)), ("A", day(5), None)))


# --- Prices across actions -------------------------------------------------------------------------------------------


def test_forward_adjustment_divides_out_splits_and_swaps_and_leaves_the_past_alone(write_bars):
    bars = write_bars([[10], [12], [6], [0.6]], volume=[8.0, 8.0, 16.0, 160.0], start=START)
    moves = actions(
        {"effective_at": day(2), "ratio": 2.0}, {"effective_at": day(3), "ratio": 10.0, "kind": "swap"},
        {"symbol": "other", "effective_at": day(1), "ratio": 7.0},
    )  # fmt: skip
    adjusted = adjust_forward(bars, moves)
    assert adjusted["close"].to_list() == pytest.approx([10, 12, 12, 12])
    assert adjusted["volume"].to_list() == pytest.approx([8.0] * 4)


def test_backward_adjustment_shows_only_what_was_known_at_the_moment(write_bars):
    bars = write_bars([[10], [12], [6], [6.6]], start=START)
    moves = actions({"effective_at": day(2), "ratio": 2.0, "announced_at": day(1)})
    seen = {n: adjust_backward(bars, moves, DAILY, as_of=day(n))["close"].to_list() for n in (0, 1, 2, 3, 4)}
    assert seen == {0: [], 1: [10], 2: [5, 6], 3: [5, 6, 6], 4: [5, 6, 6, 6.6]}


def test_an_action_announced_late_counts_from_its_announcement(write_bars):
    bars = write_bars([[10], [5], [5], [5]], start=START)
    late = actions({"effective_at": day(1), "ratio": 2.0, "announced_at": day(2.5)})
    assert adjust_forward(bars, late)["close"].to_list() == [10, 5, 5, 10]
    assert adjust_backward(bars, late, DAILY, as_of=day(2))["close"].to_list() == [10, 5]
    assert adjust_backward(bars, late, DAILY, as_of=day(3))["close"].to_list() == [5, 5, 5]


def test_dividends_are_reinvested_at_the_last_close_before_them_when_asked(write_bars):
    bars = write_bars([[10], [8], [8]], start=START)
    paid = actions({"effective_at": day(1), "kind": "dividend", "cash": 2.0})
    assert adjust_forward(bars, paid)["close"].to_list() == [10, 8, 8]
    assert adjust_forward(bars, paid, dividends=True)["close"].to_list() == pytest.approx([10, 10, 10])
    assert adjust_forward(bars, paid, dividends=True)["volume"].equals(bars["volume"])
    with pytest.raises(DataError, match=r"pays 12.0 .* its last close is 10.0. Check the units"):
        adjust_forward(bars, paid.with_columns(cash=pl.lit(12.0)), dividends=True)


@given(
    moves=st.lists(
        st.tuples(st.integers(-2, 30), st.integers(-3, 6), st.sampled_from([0.1, 0.5, 2.0, 3.0])),
        max_size=6,
        unique_by=lambda m: m[0],
    ),
    cut=st.integers(1, 25),
)
def test_forward_adjustment_is_blind_to_later_bars_and_later_news(make_bars, moves, cut):
    bars = make_bars(5, 25, start=START)
    table = actions(*({"effective_at": day(e), "announced_at": day(e + lag), "ratio": r} for e, lag, r in moves))
    news_by_then = table.filter(pl.max_horizontal("effective_at", "announced_at") < day(cut))
    assert adjust_forward(bars[:cut], news_by_then).equals(adjust_forward(bars, table)[:cut])


def test_forward_returns_equal_the_point_in_time_returns_a_vendor_published(shared_data: Path):
    """Each day's file states the close of the day before on that day's scale; 1,861 symbols, every action of a year."""
    pit = pl.read_parquet(shared_data / "pystock_us_stocks_pit_1d_2015-03_2016-03.parquet").sort("symbol", "timestamp")
    before = pl.col("close").shift(1).over("symbol")
    ratio = pit.select(
        "symbol", effective_at="timestamp", ratio=before / pl.col("prev_adj_close"), kind=pl.lit("split")
    )
    moves = ratio.filter((pl.col("ratio") - 1).abs() > 1e-9)
    adjusted = pit.with_columns(adjusted=adjust_forward(pit, moves)["close"])
    own = adjusted.with_columns(own=pl.col("adjusted") / pl.col("adjusted").shift(1).over("symbol") - 1).filter(
        before.is_not_null() & pl.col("prev_adj_close").is_not_null()
    )
    published = own["close"] / own["prev_adj_close"] - 1
    assert moves.height > 5_000
    np.testing.assert_allclose(own["own"], published, rtol=1e-9, atol=1e-9)


# --- Files and the lake ----------------------------------------------------------------------------------------------


def test_files_are_mapped_and_constants_fill_what_they_lack(tmp_path: Path):
    (tmp_path / "listed.csv").write_text("Ticker,From,To\n000001,20200101,\nTRUE,20200102,20200105\n")
    (tmp_path / "moves.csv").write_text(
        "symbol,effective_at,kind,ratio,new_symbol\n000001,2020-01-03,split,2.0,\nTRUE,2020-01-04,rename,,000002\n"
    )
    mapped = InstrumentFile(
        path=str(tmp_path / "listed.csv"),
        columns={"Ticker": "symbol", "From": "listed_at", "To": "delisted_at"},
        constants={"asset_class": "equity", "quote": "CNY"},
        time_format="%Y%m%d",
        time_zone="UTC",
        end_is_last_day=True,
    )
    table = load_instruments(
        InstrumentsConfig(listings=(mapped,), actions=(InstrumentFile(path=str(tmp_path / "moves.csv")),))
    )
    assert table.universe(day(4)) == ("000001", "TRUE")
    assert table.universe(day(5)) == ("000001",)
    assert table.symbol_at("TRUE", day(9), since=day(0)) == "000002"
    assert table.actions["ratio"].to_list() == [2.0, None]


def test_the_real_sp500_has_the_members_of_each_day(shared_data: Path):
    file = InstrumentFile(path=str(shared_data / "sp500_membership_1996_2016-03.parquet"), constants={"index": "SP500"})
    table = load_instruments(InstrumentsConfig(memberships=(file,)))
    assert table.memberships.height == 1_022
    sizes = {
        d: len(table.universe(dt.date.fromisoformat(d), "SP500")) for d in ("1996-01-02", "2008-09-15", "2016-03-31")
    }
    assert sizes == {"1996-01-02": 487, "2008-09-15": 498, "2016-03-31": 505}
    assert "MER" in table.universe(dt.date(2008, 12, 31), "SP500")
    assert "MER" not in table.universe(dt.date(2009, 1, 2), "SP500")


def test_bars_tell_listings_that_begin_late_or_stop_early(shared_data: Path):
    bars = pl.read_parquet(
        shared_data / "pystock_us_stocks_pit_1d_2015-03_2016-03.parquet", columns=["symbol", "timestamp"]
    )
    found = listings_from_bars(bars.iter_slices(50_000), DAILY, asset_class="equity", quote="USD")
    assert found.height == 1_861
    assert found["delisted_at"].count() == 81
    assert found["listed_at"].count() == 105
    table = Instruments(listings=found)
    gone = found.filter(pl.col("delisted_at").is_not_null())
    last_bar = gone["delisted_at"][0] - dt.timedelta(days=1)
    assert gone["symbol"][0] in table.universe(last_bar)
    assert gone["symbol"][0] not in table.universe(last_bar + dt.timedelta(days=1))


def test_the_lake_keeps_every_version_and_makes_none_when_nothing_changed(tmp_path: Path):
    storage = Storage(StorageConfig(root=str(tmp_path)))
    first = Instruments(listings=listings(("A", None, None)), memberships=members(("I", "A", day(0), None)))
    then = write_instruments(storage, first)
    assert write_instruments(storage, first) == then
    second = Instruments(listings=listings(("A", None, day(9))), memberships=first.memberships)
    now = write_instruments(storage, second)
    assert (now.memberships, now.actions) == (then.memberships, then.actions)
    assert now.listings.version == then.listings.version + 1
    assert read_instruments(storage).universe(day(10), "I") == ()
    assert read_instruments(storage, then).universe(day(10), "I") == ("A",)
    LakeTable(storage, "lake/instruments/actions").overwrite(pl.DataFrame({"x": [1]}).to_arrow())
    with pytest.raises(OutputExistsError, match="is a table of x, not of actions"):
        write_instruments(storage, first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": ""}, "path is empty"),
        ({"path": "x", "columns": {"a": "symbol", "b": "symbol"}}, "one of ours twice"),
        ({"path": "x", "columns": {"a": "symbol"}, "constants": {"symbol": "A"}}, "one of ours twice"),
    ],
)
def test_a_wrong_mapping_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        InstrumentFile(**settings)


def test_a_mapping_that_does_not_fit_the_file_or_the_table_is_named(tmp_path: Path):
    (tmp_path / "m.csv").write_text("tic,start\nA,2020-01-01\n")
    for columns, error, message in (
        ({"tick": "symbol"}, SchemaError, r"no column 'tick'. Did you mean 'tic'\?"),
        ({"tic": "listed_at"}, ConfigError, "'listed_at' is none of ours"),
    ):
        file = InstrumentFile(path=str(tmp_path / "m.csv"), columns=columns, constants={"index": "I"})
        with pytest.raises(error, match=message):
            load_instruments(InstrumentsConfig(memberships=(file,)))
    with pytest.raises(ConfigError, match="names no file"):
        InstrumentsConfig()


def test_prices_are_the_four_columns(write_bars):
    adjusted = adjust_forward(
        write_bars([[2, 4, 1, 3]] * 2, start=START), actions({"effective_at": day(1), "ratio": 2.0})
    )
    assert adjusted.select(PRICE_COLUMNS).row(1) == (4, 8, 2, 6)
