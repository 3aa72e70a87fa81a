"""Order-book replay: against a plain dict on a real exchange's stream and on random ones, and never ahead of time."""

import datetime as dt
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quantfleet.contracts import BOOK_COLUMNS, FeatureConfig, FeatureSet, Timeframe, validate_book
from quantfleet.errors import BookError, ConfigError, DataError, MissingInputError, PriceError, SchemaError, TimeError
from quantfleet_data.features import compute_features
from quantfleet_data.order_book import BookFeaturesConfig, BookReplay, join_book, replay

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
SMALL = BookFeaturesConfig(levels=(1, 3), within_bps=(20.0,), slope_levels=(2,))


def messages(*rows: tuple[float, int, str, str, float, float], symbol: str = "AAA") -> pl.DataFrame:
    """Rows of (seconds, sequence, kind, side, price, amount)."""
    kinds = (pl.String, pl.Datetime("us", "UTC"), pl.Int64, pl.String, pl.String, pl.Float64, pl.Float64)
    return pl.DataFrame(
        [(symbol, START + dt.timedelta(seconds=r[0]), *r[1:]) for r in rows],
        schema=dict(zip(BOOK_COLUMNS, kinds, strict=True)),
        orient="row",
    )


def dict_replay(rows: pl.DataFrame, config: BookFeaturesConfig) -> list[dict[str, float]]:
    """One dict a side, sorted anew after each message; measures by the formulas of `BookFeaturesConfig`."""
    books, out = {"bid": {}, "ask": {}}, []
    for _, part in rows.group_by("sequence", maintain_order=True):
        if part["kind"][0] == "snapshot":
            books = {"bid": {}, "ask": {}}
        for side, price, amount in part.select("side", "price", "amount").rows():
            if amount == 0:
                books[side].pop(price, None)
            else:
                books[side][price] = amount
        out.append(measures(sorted(books["bid"].items(), reverse=True), sorted(books["ask"].items()), config))
    return out


def measures(bids: list, asks: list, config: BookFeaturesConfig) -> dict[str, float]:
    row = {
        "best_bid": bids[0][0] if bids else math.nan,
        "best_ask": asks[0][0] if asks else math.nan,
        "levels_bid": len(bids),
        "levels_ask": len(asks),
    }
    if not (bids and asks):
        return row
    (b, B), (a, A) = bids[0], asks[0]
    m = (a + b) / 2
    micro = (a * B + b * A) / (A + B)
    row |= {"mid": m, "spread_bps": 1e4 * (a - b) / m, "microprice": micro, "microprice_bps": 1e4 * (micro / m - 1)}

    def both(names, measured):
        bid, ask = measured(bids), measured(asks)
        total = bid + ask
        return dict(zip(names, (bid, ask, (bid - ask) / total if total else math.nan), strict=True))

    def slope(side, k):
        distance, amount = zip(*((abs(p / m - 1) * 1e4, q) for p, q in side[:k]), strict=True)
        return float(np.linalg.lstsq(np.array(distance)[:, None], np.cumsum(amount), rcond=None)[0][0])

    for k in config.levels:
        row |= both((f"depth_bid_{k}", f"depth_ask_{k}", f"imbalance_{k}"), lambda s, k=k: sum(q for _, q in s[:k]))
    for x in config.within_bps:
        names = (f"depth_bid_{x:g}bps", f"depth_ask_{x:g}bps", f"imbalance_{x:g}bps")
        row |= both(names, lambda s, x=x: sum(q for p, q in s if abs(p - m) <= m * x / 1e4))
    for k in config.slope_levels:
        row |= both((f"slope_bid_{k}", f"slope_ask_{k}", f"slope_imbalance_{k}"), lambda s, k=k: slope(s, k))
    return row


def assert_same_measures(made: pl.DataFrame, expected: list[dict[str, float]]) -> None:
    assert made.height == len(expected)
    for got, wanted in zip(made.to_dicts(), expected, strict=True):
        for name, value in wanted.items():
            assert got[name] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), name


@pytest.fixture(scope="module")
def bybit(shared_data) -> pl.DataFrame:
    return pl.read_parquet(shared_data / "bybit_xrpusdt_l2_book_500_2024-12-01.parquet").rename(
        {"event": "kind", "update_id": "sequence", "size": "amount"}
    )


# ------------------------------------------------------------------------------------------------ real data


def test_the_bybit_sample_replays_without_crossing_to_the_book_its_readme_names(bybit):
    books = BookReplay()
    made = books.update(bybit)
    assert (made["best_bid"] < made["best_ask"]).all()
    assert made.height == 1 + 49
    last = made.row(-1, named=True)
    assert (last["best_bid"], last["best_ask"], last["levels_bid"], last["levels_ask"]) == (1.9537, 1.9538, 500, 500)
    levels = books.levels("XRP/USDT")
    assert levels["side"].to_list() == ["bid"] * 500 + ["ask"] * 500
    assert levels["price"][0] == 1.9537
    assert (levels["price"][:500].diff().drop_nulls() < 0).all()


def test_every_measure_of_the_bybit_sample_equals_that_of_a_dict(bybit):
    config = BookFeaturesConfig(levels=(1, 5, 50), within_bps=(2.0, 30.0), slope_levels=(10, 100))
    assert_same_measures(replay(bybit, config), dict_replay(bybit, config))


def test_one_lost_message_of_the_bybit_sample_is_noticed_by_its_sequence(bybit):
    lost = bybit.filter(pl.col("sequence") != 20254880)
    with pytest.raises(
        BookError, match=r"XRP/USDT sequence 20254881 at .* after 20254879, where 20254880 should follow"
    ) as error:
        replay(lost)
    assert error.value.fields["sequence"] == 20254881


# ------------------------------------------------------------------------------------------------ random streams


@st.composite
def streams(draw) -> pl.DataFrame:
    """A snapshot around 100, then deltas that never cross; now and then another snapshot, sides may run empty."""
    rows, time = [], 0.0
    for number in range(draw(st.integers(1, 25))):
        kind = "snapshot" if number == 0 or draw(st.integers(0, 9)) == 0 else "delta"
        time += draw(st.sampled_from([0.0, 0.1, 0.5, 2.5])) if number else 0.0
        for _ in range(draw(st.integers(1, 6))):
            side = draw(st.sampled_from(["bid", "ask"]))
            away = draw(st.integers(1, 12)) * 0.01
            amount = draw(st.sampled_from([0.0, 0.25, 1.0, 7.5]))
            rows.append((time, number, kind, side, round(100 + (away if side == "ask" else -away), 2), amount))
    return messages(*rows)


@settings(max_examples=25)
@given(rows=streams())
def test_any_stream_gives_the_measures_of_a_dict(rows):
    assert_same_measures(replay(rows, SMALL), dict_replay(rows, SMALL))


@settings(max_examples=20)
@given(rows=streams(), cut=st.integers(0, 25))
def test_cutting_a_stream_into_batches_changes_nothing(rows, cut):
    early, late = rows.filter(pl.col("sequence") < cut), rows.filter(pl.col("sequence") >= cut)
    for timeframe in (None, Timeframe("1s")):
        books = BookReplay(SMALL, timeframe=timeframe)
        parts = [books.update(part) for part in (early, late) if not part.is_empty()]
        parts += [books.finish()] if timeframe else []
        assert_frame_equal(pl.concat(parts), replay(rows, SMALL, timeframe=timeframe), check_exact=True)


@settings(max_examples=25)
@given(rows=streams(), seconds=st.integers(1, 3))
def test_bars_get_the_book_of_the_last_message_at_or_before_their_close_sampled_or_not(rows, seconds):
    timeframe = Timeframe(f"{seconds}s")
    every, sampled = replay(rows, SMALL), replay(rows, SMALL, timeframe=timeframe)
    bars = pl.DataFrame(
        {
            "symbol": "AAA",
            "timestamp": pl.Series(
                [START + dt.timedelta(seconds=seconds * i) for i in range(-1, 30)]
            ).dt.cast_time_unit("us"),
        }
    )
    joined = join_book(bars, sampled, timeframe)
    assert_frame_equal(joined, join_book(bars, every, timeframe), check_exact=True)
    for open_time, mid, bid, age in joined.select("timestamp", "book_mid", "book_best_bid", "book_age_s").rows():
        known = every.filter(pl.col("timestamp") <= open_time + timeframe.delta)
        if known.is_empty():
            assert mid is None
            assert age is None
        else:
            last = known.row(-1, named=True)
            assert (mid, bid) == pytest.approx((last["mid"], last["best_bid"]), rel=0, abs=0, nan_ok=True)
            assert age == pytest.approx((open_time + timeframe.delta - last["timestamp"]).total_seconds())


@settings(max_examples=20)
@given(rows=streams(), seconds=st.integers(0, 20))
def test_cutting_the_future_off_changes_no_bar_that_is_known(rows, seconds):
    now, timeframe = START + dt.timedelta(seconds=seconds), Timeframe("1s")
    stamps = pl.Series([START + dt.timedelta(seconds=i) for i in range(-1, seconds)], dtype=pl.Datetime("us", "UTC"))
    bars = pl.DataFrame({"symbol": ["AAA"] * len(stamps), "timestamp": stamps})
    past = rows.filter(pl.col("timestamp") <= now)
    whole, then = (join_book(bars, replay(r, SMALL, timeframe=timeframe), timeframe) for r in (rows, past))
    assert_frame_equal(whole, then, check_exact=True)


# ------------------------------------------------------------------------------------------------ by hand


def test_measures_of_a_book_written_down_by_hand():
    book = messages(
        (0, 1, "snapshot", "bid", 99.0, 3.0), (0, 1, "snapshot", "bid", 98.0, 1.0),
        (0, 1, "snapshot", "ask", 101.0, 1.0), (0, 1, "snapshot", "ask", 103.0, 5.0),
    )  # fmt: skip
    row = replay(book, BookFeaturesConfig(levels=(1, 2), within_bps=(100.0,), slope_levels=(2,))).row(0, named=True)
    assert (row["mid"], row["spread_bps"], row["microprice"]) == (100.0, 200.0, 100.5)
    assert row["microprice_bps"] == pytest.approx(50.0)
    assert (row["imbalance_1"], row["depth_ask_2"], row["imbalance_2"]) == (0.5, 6.0, -0.2)
    assert (row["depth_bid_100bps"], row["depth_ask_100bps"]) == (3.0, 1.0)
    assert row["slope_bid_2"] == pytest.approx((100 * 3 + 200 * 4) / (100**2 + 200**2))


def test_a_book_with_one_empty_side_has_no_mid_and_does_not_fail():
    row = replay(messages((0, 1, "snapshot", "bid", 99.0, 3.0)), SMALL).row(0, named=True)
    assert (row["best_bid"], row["levels_ask"], row["depth_bid_3"], row["depth_ask_3"]) == (99.0, 0, 3.0, 0.0)
    assert math.isnan(row["mid"])
    assert math.isnan(row["imbalance_1"])


SNAPSHOT = ((0, 5, "snapshot", "bid", 99.0, 1.0), (0, 5, "snapshot", "ask", 101.0, 1.0))
BROKEN = {
    "a delta first": (((0, 5, "delta", "bid", 99.0, 1.0),), BookError, "sequence 5 at .* is a delta, and no snapshot"),
    "a gap": ((*SNAPSHOT, (1, 7, "delta", "bid", 99.0, 2.0)), BookError, "sequence 7 .* after 5, where 6 should follow"),
    "crossed": (
        (*SNAPSHOT, (1, 6, "delta", "bid", 102.0, 2.0)),
        BookError,
        r"sequence 6 .* crosses the book: best bid 102.0 is not below best ask 101.0",
    ),
    "locked": ((*SNAPSHOT, (1, 6, "delta", "bid", 101.0, 2.0)), BookError, "sequence 6 .* crosses the book"),
    "negative amount": ((*SNAPSHOT, (1, 6, "delta", "bid", 99.0, -2.0)), PriceError, "sequence 6: .*amount=-2.0"),
    "no amount": ((*SNAPSHOT, (1, 6, "delta", "bid", 99.0, math.nan)), PriceError, "sequence 6: .*amount=nan"),
    "price of zero": ((*SNAPSHOT, (1, 6, "delta", "bid", 0.0, 1.0)), PriceError, "price=0.0"),
    "counts back": ((*SNAPSHOT, (1, 4, "delta", "bid", 99.0, 2.0)), DataError, "only a snapshot may start the count anew"),
    "unknown side": (((0, 5, "snapshot", "buy", 99.0, 1.0),), SchemaError, "side other than bid or ask"),
    "backwards": ((*SNAPSHOT, (-1, 6, "delta", "bid", 99.0, 2.0)), TimeError, "not sorted"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_stream_gives_one_error_with_its_place(case):
    rows, error, message = BROKEN[case]
    with pytest.raises(error, match=f"file b.parquet.*{message}"):
        replay(messages(*rows), where="file b.parquet")


def test_after_a_gap_the_replay_goes_on_with_the_next_snapshot_only():
    books = BookReplay(SMALL)
    books.update(messages(*SNAPSHOT))
    with pytest.raises(BookError, match="messages are missing"):
        books.update(messages((1, 9, "delta", "bid", 99.0, 1.0)))
    with pytest.raises(MissingInputError, match="no order book of 'AAA'"):
        books.levels("AAA")
    with pytest.raises(BookError, match="no snapshot came before it"):
        books.update(messages((2, 10, "delta", "bid", 99.0, 1.0)))
    again = books.update(messages((3, 1, "snapshot", "bid", 98.0, 1.0), (4, 2, "delta", "ask", 99.0, 1.0)))
    assert again["best_bid"].to_list() == [98.0, 98.0]


def test_a_message_given_twice_is_refused_and_counts_with_gaps_by_design_are_allowed():
    delta = messages((1, 9, "delta", "bid", 98.0, 1.0))
    books = BookReplay(SMALL, sequence_step=None)
    books.update(messages(*SNAPSHOT))
    assert books.update(delta)["levels_bid"].to_list() == [2]
    with pytest.raises(BookError, match=r"sequence 9 .* after 9: it was applied already"):
        books.update(delta)
    with pytest.raises(ConfigError, match="sequence_step=0 must be positive"):
        BookReplay(sequence_step=0)


def test_symbols_have_books_of_their_own():
    both = pl.concat([messages(*SNAPSHOT), messages((0, 1, "snapshot", "bid", 7.0, 1.0), symbol="BBB")])
    assert replay(both, SMALL)["best_bid"].to_list() == [99.0, 7.0]


def test_measures_become_bar_columns_that_a_feature_can_read(make_bars):
    class Spread(FeatureConfig):
        column, lookback_bars, inputs, source = "spread", 1, ("book_spread_bps",), "the order book"

        def compute(self, bars):
            return bars["book_spread_bps"].fill_null(np.nan).to_numpy().copy()

    bars = make_bars(0, 4, timeframe="1m", start=START)
    rows = messages(*SNAPSHOT, (90, 6, "delta", "bid", 100.0, 1.0))
    joined = join_book(bars, replay(rows, SMALL, timeframe=Timeframe("1m")), Timeframe("1m"))
    features = compute_features(joined, FeatureSet(name="book", version=1, features=(Spread(),)))
    assert features["spread"].round(2).to_list() == [200.0, 99.5, 99.5, 99.5]
    fresh = join_book(bars, replay(rows, SMALL), Timeframe("1m"), max_age=dt.timedelta(seconds=60))
    assert fresh["book_age_s"].to_list() == [60.0, 30.0, None, None]
    with pytest.raises(SchemaError, match="the bars already have book_best_bid"):
        join_book(joined, replay(rows, SMALL), Timeframe("1m"))
    with pytest.raises(SchemaError, match="have no column 'known_at'"):
        join_book(bars, replay(rows, SMALL))


def test_bars_of_each_symbol_get_its_own_book_in_the_order_of_the_bars_at_the_time_they_are_known():
    book = pl.concat(
        [
            messages((0, 1, "snapshot", "bid", 1.0, 1.0), (5, 2, "delta", "bid", 2.0, 1.0)),
            messages((2, 1, "snapshot", "bid", 7.0, 1.0), symbol="BBB"),
        ]
    )
    second = dt.timedelta(seconds=1)
    rows = [("BBB", 1), ("BBB", 3), ("AAA", 5), ("AAA", 4.999999), ("CCC", 9)]
    events = pl.DataFrame(
        {
            "symbol": [s for s, _ in rows],
            "timestamp": pl.Series([START] * 5, dtype=pl.Datetime("us", "UTC")),
            "known_at": pl.Series([START + at * second for _, at in rows], dtype=pl.Datetime("us", "UTC")),
        }
    )
    joined = join_book(events, replay(book, SMALL))
    assert joined["book_best_bid"].to_list() == [None, 7.0, 2.0, 1.0, None]
    assert joined["symbol"].to_list() == [s for s, _ in rows]


def test_a_snapshot_may_follow_under_the_same_number_and_the_contract_keeps_types():
    twice = messages(*SNAPSHOT, (1, 5, "snapshot", "bid", 98.0, 1.0)).with_columns(pl.col("sequence").cast(pl.Int32))
    checked = validate_book(twice, where="b")
    assert tuple(checked.columns) == BOOK_COLUMNS
    assert checked.schema["sequence"] == pl.Int64
    assert replay(twice, SMALL)["best_bid"].to_list() == [99.0, 98.0]


@pytest.mark.parametrize("config", [{"levels": (0,)}, {"within_bps": (5.0, 5.0)}, {"slope_levels": (-1,)}])
def test_measures_without_sense_are_refused(config):
    with pytest.raises(ConfigError, match="must be different positive numbers"):
        BookFeaturesConfig(**config)


def test_sampling_at_closes_that_no_grid_gives_is_refused():
    with pytest.raises(ConfigError, match="bars of 1w do not divide a day"):
        BookReplay(timeframe=Timeframe("1w"))
