"""Bars from trades: equal to published bars to the bit, to loops written from the book, and however the trades come in."""

import datetime as dt
import itertools
import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quantfleet.contracts import BAR_COLUMNS, TRADE_COLUMNS, validate_bars, validate_trades
from quantfleet.errors import ConfigError, DataError, EmptyTableError, PriceError, SchemaError, TimeError
from quantfleet_data.trade_bars import (
    TRADE_BAR_COLUMNS,
    DollarBars,
    DollarImbalanceBars,
    TickBars,
    TickImbalanceBars,
    TimeBars,
    TradeBarBuilder,
    VolumeBars,
    VolumeImbalanceBars,
    bars_from_trades,
    stream_trade_bars,
)

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
CONFIGS = [
    TimeBars(timeframe="1s"),
    TickBars(trades=7),
    VolumeBars(amount=20.0),
    DollarBars(value=1500.0),
    TickImbalanceBars(expected_trades=10, bars_span=5, trades_span=30),
    VolumeImbalanceBars(expected_trades=10, bars_span=5, trades_span=30, chance_floor=False),
    DollarImbalanceBars(expected_trades=10, bars_span=5, trades_span=30, signs="side"),
]


def random_trades(seed: int = 0, rows: int = 400, symbol: str = "AAA") -> pl.DataFrame:
    """Prices on a tick of 0.01 around 100, uneven amounts, several trades in one microsecond."""
    rng = np.random.default_rng(seed)
    steps_us = rng.choice([0, 1, 1000, 250_000, 3_000_000], rows, p=[0.3, 0.1, 0.3, 0.25, 0.05])
    return pl.DataFrame(
        {
            "symbol": [symbol] * rows,
            "timestamp": pl.Series(np.cumsum(steps_us)).cast(pl.Duration("us")) + START,
            "trade_id": [f"{seed}-{i}" for i in range(rows)],
            "price": np.round(100 + np.cumsum(rng.integers(-1, 2, rows)) * 0.01, 2),
            "amount": np.round(rng.lognormal(0.0, 1.0, rows), 3) + 0.001,
            "side": rng.choice(["buy", "sell"], rows),
        }
    )


# ------------------------------------------------------------------------------------------------ real data


def test_one_minute_bars_equal_the_published_ones_to_the_bit(shared_data):
    trades = pl.read_parquet(shared_data / "freqtrade_testdata_xrpeth_trades_2019-10.parquet").rename(
        {"id": "trade_id"}
    )
    published = pl.read_parquet(shared_data / "freqtrade_testdata_xrpeth_1m_2019-10.parquet").select(BAR_COLUMNS)
    made = bars_from_trades(trades, TimeBars(timeframe="1m"), until=dt.datetime(2019, 10, 13, 11, 20, tzinfo=dt.UTC))
    assert made.height == 2469
    assert_frame_equal(validate_bars(made, where="bars"), published, check_exact=True)
    assert (made["known_at"] - made["timestamp"] == dt.timedelta(minutes=1)).all()
    assert made["value"].sum() == pytest.approx(trades["cost"].sum(), rel=1e-12)
    bought = trades.filter(pl.col("side") == "buy")["amount"].sum()
    assert made["buy_volume"].sum() == pytest.approx(bought, rel=1e-12)


@pytest.mark.parametrize(
    "config", [TickBars(trades=50), DollarBars(value=2e5), VolumeImbalanceBars(expected_trades=40)]
)
def test_every_trade_of_a_real_stream_is_in_one_bar_up_to_the_last_that_ended(shared_data, config):
    trades = pl.read_parquet(shared_data / "binance_spot_btcusdt_trades_2021-01-08.parquet").rename({"id": "trade_id"})
    made = bars_from_trades(trades, config)
    held = trades.head(int(made["trades"].sum()))
    assert made.height > 3
    assert made["volume"].sum() == pytest.approx(held["amount"].sum(), rel=1e-12)
    assert made["known_at"][-1] == held["timestamp"][-1]
    assert (made["timestamp"] <= made["known_at"]).all()


# ------------------------------------------------------------------------------------------------ against plain loops


def plain_bars(trades: pl.DataFrame, ends: "list[int]") -> list[tuple]:
    """OHLCV by Python's own loops; `ends` are the places after each bar's last trade."""
    rows, bars, first = trades.rows(named=True), [], 0
    for end in ends:
        part = rows[first:end]
        price, volume = [r["price"] for r in part], 0.0
        for r in part:
            volume += r["amount"]
        bars.append((part[0]["timestamp"], price[0], max(price), min(price), price[-1], volume, part[-1]["timestamp"]))
        first = end
    return bars


def same_bars(made: pl.DataFrame, expected: list[tuple]) -> bool:
    return made.select("timestamp", "open", "high", "low", "close", "volume", "known_at").rows() == expected


def sum_ends(sizes: list[float], threshold: float) -> list[int]:
    ends, total = [], 0.0
    for i, size in enumerate(sizes):
        total += size
        if total >= threshold:
            ends.append(i + 1)
            total = 0.0
    return ends


def imbalance_ends(signs, sizes, *, expected, bars_span, trades_span, floor) -> list[int]:
    """Lopez de Prado (2018), 2.3.2: E[T] over bars, E[b v] over trades, both from before the bar."""
    ends, length, mean, square, theta, first = [], float(expected), 0.0, 0.0, 0.0, 0
    limit = math.inf
    for i, (sign, size) in enumerate(zip(signs, sizes, strict=True)):
        if i == first and ends:
            limit = length * abs(mean)
            if floor:
                limit = max(limit, math.sqrt(length * square))
        theta += sign * size
        alpha = max(2 / (trades_span + 1), 1 / (i + 1))
        mean += alpha * (sign * size - mean)
        square += alpha * (size * size - square)
        if abs(theta) >= limit or (not ends and i + 1 >= expected):
            ends.append(i + 1)
            length += (0 if bars_span is None else 2 / (bars_span + 1)) * (i + 1 - first - length)
            length = min(max(length, expected / 10), expected * 10.0)
            theta, first = 0.0, i + 1
    return ends


def tick_rule(prices: list[float]) -> list[int]:
    signs, sign = [], 0
    for i, price in enumerate(prices):
        if i and price != prices[i - 1]:
            sign = 1 if price > prices[i - 1] else -1
        signs.append(sign)
    return signs


@pytest.mark.parametrize("seed", range(3))
def test_sum_bars_end_with_the_trade_that_reaches_the_threshold(seed):
    trades = random_trades(seed)
    price, amount = trades["price"].to_list(), trades["amount"].to_list()
    value = [p * a for p, a in zip(price, amount, strict=True)]
    for config, sizes, threshold in (
        (TickBars(trades=7), [1.0] * len(price), 7),
        (VolumeBars(amount=20.0), amount, 20.0),
        (DollarBars(value=1500.0), value, 1500.0),
    ):
        made = bars_from_trades(trades, config)
        assert same_bars(made, plain_bars(trades, sum_ends(sizes, threshold)))
        assert made["number"].to_list() == list(range(made.height))


@pytest.mark.parametrize("bars_span", [9, None])
@pytest.mark.parametrize("floor", [True, False])
@pytest.mark.parametrize("signs", ["tick_rule", "side"])
@pytest.mark.parametrize("kind", [TickImbalanceBars, VolumeImbalanceBars, DollarImbalanceBars])
def test_imbalance_bars_equal_a_loop_written_from_the_book(kind, signs, floor, bars_span):
    trades = random_trades(11, 3000)
    price, amount = trades["price"].to_list(), trades["amount"].to_list()
    sizes = {
        "trades": [1.0] * len(price),
        "amount": amount,
        "value": [p * a for p, a in zip(price, amount, strict=True)],
    }
    b = tick_rule(price) if signs == "tick_rule" else [1 if s == "buy" else -1 for s in trades["side"]]
    ends = imbalance_ends(b, sizes[kind.measure], expected=30, bars_span=bars_span, trades_span=200, floor=floor)
    config = kind(expected_trades=30, bars_span=bars_span, trades_span=200, signs=signs, chance_floor=floor)
    assert len(ends) > 8
    assert same_bars(bars_from_trades(trades, config), plain_bars(trades, ends))


def test_in_a_balanced_market_the_chance_floor_keeps_bars_near_their_expected_length():
    trades = random_trades(5, 40_000)
    held, loose = (
        bars_from_trades(trades, TickImbalanceBars(expected_trades=100, signs="side", chance_floor=floor)).height
        for floor in (True, False)
    )
    assert 40_000 / 300 < held < 40_000 / 30
    assert loose > 3 * held  # the book's threshold shrinks with the lean


# ------------------------------------------------------------------------------------------------ streaming


@settings(max_examples=20)
@given(
    config=st.sampled_from(CONFIGS),
    seed=st.integers(0, 20),
    cuts=st.lists(st.integers(1, 399), max_size=8, unique=True),
    saved=st.booleans(),
)
def test_any_cutting_into_batches_and_any_restart_gives_the_same_bits(config, seed, cuts, saved):
    trades, until = random_trades(seed), START + dt.timedelta(days=1)
    whole = bars_from_trades(trades, config, until=until)
    builder, parts, edges = TradeBarBuilder(config), [], [0, *sorted(cuts), trades.height]
    for first, last in itertools.pairwise(edges):
        parts.append(builder.update(trades[first:last]))
        if saved:
            builder = TradeBarBuilder.from_dict(config, json.loads(json.dumps(builder.to_dict())))
    parts.append(builder.finish(until))
    assert_frame_equal(pl.concat(parts), whole, check_exact=True)
    assert tuple(whole.columns) == TRADE_BAR_COLUMNS


def test_symbols_in_one_table_do_not_touch_each_other():
    a, b = random_trades(1, symbol="AAA"), random_trades(2, symbol="BBB")
    both = bars_from_trades(pl.concat([b, a]), TickBars(trades=9))
    alone = [bars_from_trades(t, TickBars(trades=9)) for t in (a, b)]
    assert_frame_equal(both, pl.concat(alone), check_exact=True)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_a_bar_known_at_some_time_does_not_change_when_later_trades_are_cut_off(config):
    trades = random_trades(3)
    whole = bars_from_trades(trades, config)
    now = trades["timestamp"][250]
    then = bars_from_trades(trades.filter(pl.col("timestamp") <= now), config, until=now)
    assert then.height > 3
    assert_frame_equal(then, whole.filter(pl.col("known_at") <= now).head(then.height), check_exact=True)


def test_state_stays_small_however_many_trades_pass():
    builder, sizes = TradeBarBuilder(TickImbalanceBars(expected_trades=50)), []
    trades = random_trades(0, 20_000)
    for first in range(0, trades.height, 1000):
        builder.update(trades[first : first + 1000])
        sizes.append(len(json.dumps(builder.to_dict())))
    assert max(sizes) < 2000


def test_a_time_bar_is_given_out_only_when_its_interval_is_over():
    trades = random_trades(0, 3).with_columns(
        timestamp=pl.Series([START, START + dt.timedelta(seconds=30), START + dt.timedelta(seconds=60)])
    )
    builder = TradeBarBuilder(TimeBars(timeframe="1m"))
    assert builder.update(trades[:2]).is_empty()
    assert builder.finish(START + dt.timedelta(seconds=59)).is_empty()
    assert builder.update(trades[2:])["timestamp"].to_list() == [START]
    assert builder.finish(START + dt.timedelta(seconds=120))["number"].to_list() == [1]
    assert builder.finish(START + dt.timedelta(seconds=180)).is_empty()


def test_weeks_open_on_monday_and_no_empty_bar_is_invented():
    days = [dt.datetime(2024, 1, d, 12, tzinfo=dt.UTC) for d in (3, 7, 8, 30)]
    trades = random_trades(0, 4).with_columns(timestamp=pl.Series(days))
    weeks = bars_from_trades(trades, TimeBars(timeframe="1w"), until=dt.datetime(2024, 2, 5, tzinfo=dt.UTC))
    assert [t.day for t in weeks["timestamp"]] == [1, 8, 29]
    assert weeks["timestamp"].dt.weekday().unique().to_list() == [1]


def test_buy_volume_is_null_where_a_trade_of_the_bar_has_no_side():
    trades = random_trades(0, 4).with_columns(
        side=pl.Series(["buy", "sell", "buy", None]), amount=pl.Series([1.0, 2, 3, 4])
    )
    assert bars_from_trades(trades, TickBars(trades=2))["buy_volume"].to_list() == [1.0, None]


# ------------------------------------------------------------------------------------------------ refusals


def test_batches_that_go_back_repeat_or_break_the_contract_are_refused_and_nothing_of_them_counts():
    trades = random_trades(4)
    builder = TradeBarBuilder(TickBars(trades=7))
    first = builder.update(trades[:200])
    with pytest.raises(TimeError, match=r"AAA goes back to .* Give batches in order of time"):
        builder.update(trades[100:300])
    with pytest.raises(DataError, match="1 trades of AAA were in the last batch already, such as 4-199"):
        builder.update(trades[199:300])
    with pytest.raises(PriceError, match=r"1 rows have price not positive.* AAA .*price=-1.0"):
        builder.update(_bad(trades))
    rest = builder.update(trades[200:])
    assert_frame_equal(pl.concat([first, rest]), bars_from_trades(trades, TickBars(trades=7)), check_exact=True)


def _bad(trades: pl.DataFrame) -> pl.DataFrame:
    place = pl.int_range(pl.len()) == 5
    return trades[200:300].with_columns(price=pl.when(place).then(-1.0).otherwise("price"))


def test_a_trade_before_a_time_said_to_be_complete_is_refused():
    trades, builder = random_trades(0), TradeBarBuilder(TimeBars(timeframe="1s"))
    builder.update(trades[:100])
    builder.finish(START + dt.timedelta(days=1))
    with pytest.raises(TimeError, match="before the time that was said to be complete"):
        builder.update(trades[100:])
    with pytest.raises(TimeError, match="until=2024-01-01 00:00:00 is naive"):
        builder.finish(dt.datetime(2024, 1, 1))


def test_sides_are_asked_for_only_by_rules_that_read_them():
    trades = random_trades(0).with_columns(side=pl.lit(None, pl.String))
    assert bars_from_trades(trades, TickImbalanceBars(expected_trades=10)).height > 0
    with pytest.raises(SchemaError, match=r"400 trades of AAA have no side, .* Use signs='tick_rule'"):
        bars_from_trades(trades, TickImbalanceBars(expected_trades=10, signs="side"))


def test_state_of_another_config_is_refused():
    builder = TradeBarBuilder(TickBars(trades=7))
    with pytest.raises(SchemaError, match="was not made by TickBars"):
        TradeBarBuilder.from_dict(TickBars(trades=8), builder.to_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimeBars(timeframe="7m"), "neither divides a day nor is '1w'"),
        (lambda: TickBars(trades=0), "trades=0 must be a positive number"),
        (lambda: VolumeBars(amount=math.nan), "amount=nan must be a positive number"),
        (lambda: DollarBars(value=-1.0), "value=-1.0 must be"),
        (lambda: TickImbalanceBars(expected_trades_range=(5, 9)), "must enclose expected_trades=1000"),
    ],
)
def test_settings_without_sense_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


GOOD = random_trades(0, 3)
BAD_TRADES = {
    "no rows": (GOOD.clear(), EmptyTableError, "holds no trades"),
    "no amount": (GOOD.drop("amount"), SchemaError, "has no column 'amount'"),
    "text for a price": (GOOD.with_columns(price=pl.lit("1")), SchemaError, "column 'price' is String, not a number"),
    "no id": (GOOD.with_columns(trade_id=pl.lit(None, pl.String)), SchemaError, "trade_id is null in 3 rows"),
    "unknown side": (GOOD.with_columns(side=pl.lit("taker")), SchemaError, "side other than buy, sell or null.*side=taker"),
    "naive time": (GOOD.with_columns(pl.col("timestamp").dt.replace_time_zone(None)), TimeError, "timestamps are naive"),
    "backwards": (
        GOOD.with_columns(timestamp=pl.Series([START + dt.timedelta(1), START, START])),
        TimeError,
        "not sorted",
    ),
    "twice": (GOOD.with_columns(trade_id=pl.lit("7")), DataError, "2 trades come twice.*trade_id=7"),
    "amount of zero": (GOOD.with_columns(amount=pl.lit(0.0)), PriceError, "3 rows have amount not positive"),
    "symbols mixed": (GOOD.with_columns(symbol=pl.Series(["A", "B", "A"])), TimeError, "rows of one symbol are not together"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TRADES)
def test_trades_that_break_their_contract_are_refused_with_place_and_reason(case):
    frame, error, message = BAD_TRADES[case]
    with pytest.raises(error, match=f"file t.parquet.*{message}"):
        validate_trades(frame, where="file t.parquet")


def test_trades_that_keep_it_come_back_typed_and_in_order():
    odd = GOOD.with_columns(amount=pl.lit(2, pl.Int32), extra=pl.lit(1)).select(reversed([*TRADE_COLUMNS, "extra"]))
    checked = validate_trades(odd, where="t")
    assert tuple(checked.columns) == TRADE_COLUMNS
    assert checked.schema["amount"] == pl.Float64


def test_a_stream_gives_a_table_for_each_batch():
    trades = random_trades(0)
    tables = list(stream_trade_bars([trades[:150], trades[150:]], TickBars(trades=100)))
    assert [t.height for t in tables] == [1, 3]
