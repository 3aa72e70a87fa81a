"""The event engine: the same trades as the vectorised one, orders worked by hand on bars, trades and books, bad input refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.backtest import BacktestConfig, BarPanel, run_backtest
from quantfleet.backtest.events import (
    BarEvents,
    Cancel,
    Decision,
    ExecutionConfig,
    MarketView,
    Order,
    Strategy,
    run_events,
)
from quantfleet.errors import BacktestError, BookError, ConfigError, SchemaError
from quantfleet.ledger import CostModel, RiskRules

from .backtest_support import FREE, NAN, config, panel, random_walk, scenarios
from .event_support import DAY_US, FLAT, SNAPSHOT, Follow, at, bars, book, fills, moment, statuses, trades

# --- both engines


def same_in_both_engines(prices: BarPanel, target_TS: np.ndarray, account: BacktestConfig) -> None:
    expected = run_backtest(prices, target_TS, account)
    result = run_events(BarEvents(prices), Follow(lambda view: target_TS[view.t]), account)
    np.testing.assert_array_equal(result.orders.bar_N, expected.orders.bar_N)
    np.testing.assert_array_equal(result.orders.symbol_N, expected.orders.symbol_N)
    np.testing.assert_allclose(result.orders.units_N, expected.orders.units_N, rtol=1e-12)
    np.testing.assert_allclose(result.price_N, expected.price_N, rtol=1e-12)
    np.testing.assert_allclose(result.commission_N, expected.commission_N, rtol=1e-12)
    np.testing.assert_allclose(result.slippage_N, expected.slippage_N, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.equity_T, expected.equity_T, rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(result.margin_call_T, expected.margin_call_T)
    for name in ("borrow_T", "interest_T", "funding_T"):
        np.testing.assert_allclose(getattr(result, name), getattr(expected, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("short", [False, True])
def test_the_same_target_weights_make_the_same_trades_in_both_engines(short):
    prices = random_walk(300, 5, seed=3)
    rng = np.random.default_rng(5)
    target_TS = rng.dirichlet(np.ones(5), 300) * np.where(rng.random((300, 5)) < 0.3 * short, -1.0, 1.0)
    target_TS[rng.random((300, 5)) < 0.5] = NAN
    account = config(costs=CostModel(commission_bps=5.0, slippage_bps=3.0, spread_bps=2.0), allow_short=short)
    assert len(run_backtest(prices, target_TS, account).orders) > 500
    same_in_both_engines(prices, target_TS, account)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        scenarios(shorts=False), scenarios(shorts=False, everything=True), scenarios(shorts=True, everything=True)
    )
)
def test_also_with_missing_bars_leverage_margin_calls_impact_lots_ticks_and_holding_costs(scenario):
    same_in_both_engines(*scenario)


def test_an_account_that_closed_and_owes_money_is_called_in_both_engines():
    prices = panel([100.0, 100.0, 60.0, 60.0])
    account = config(leverage=4.0)
    same_in_both_engines(prices, np.array([[4.0], [0.0], [NAN], [NAN]]), account)
    assert run_backtest(prices, np.array([[4.0], [0.0], [NAN], [NAN]]), account).margin_call_T.tolist() == [
        False,
        False,
        True,
        True,
    ]


# --- orders by hand


def test_a_market_order_fills_at_the_next_open_with_slippage_and_fee():
    costs = CostModel(commission_bps=10.0, slippage_bps=100.0)
    result = run_events(
        bars([FLAT, (102, 104, 90, 95), FLAT]), at({0: Order(symbol="A", units=2.0)}), config(costs=costs)
    )
    assert fills(result) == [(1, 2.0, pytest.approx(103.02))]
    assert result.cash_T.tolist() == pytest.approx([1000.0, *[1000.0 - 206.04 * 1.001] * 2])
    assert result.equity_T[1] == pytest.approx(result.cash_T[1] + 2 * 95)


def test_a_limit_waits_until_touched_and_pays_its_price_and_the_makers_fee():
    costs = CostModel(commission_bps=10.0, maker_bps=2.0, slippage_bps=50.0)
    market = bars([FLAT, FLAT, (100, 101, 95, 99), FLAT])
    result = run_events(market, at({0: Order(symbol="A", units=2.0, limit=95.0)}), config(costs=costs))
    assert fills(result) == [(2, 2.0, 95.0)]
    assert result.commission_N.tolist() == pytest.approx([190.0 * 0.0002])
    assert result.slippage_N.tolist() == [0.0]
    assert result.trades["price"].to_list() == [95.0]


def test_a_limit_that_was_only_touched_does_not_fill_where_the_market_must_trade_through():
    market = bars([FLAT, (100, 101, 95, 99), (100, 101, 94.9, 99)])
    execution = ExecutionConfig(limits_need="through")
    result = run_events(market, at({0: Order(symbol="A", units=1.0, limit=95.0)}), config(), execution=execution)
    assert fills(result) == [(2, 1.0, 95.0)]


def test_a_waiting_limit_fills_at_an_open_that_is_better():
    market = bars([FLAT, FLAT, (90, 96, 89, 95)])
    assert fills(run_events(market, at({0: Order(symbol="A", units=1.0, limit=95.0)}), config())) == [(2, 1.0, 90.0)]


def test_a_limit_that_crosses_when_it_arrives_pays_as_a_taker_but_never_beyond_its_limit():
    costs = CostModel(commission_bps=10.0, maker_bps=0.0, slippage_bps=100.0)
    market = bars([FLAT, FLAT])
    crossing = run_events(market, at({0: Order(symbol="A", units=1.0, limit=102.0)}), config(costs=costs))
    assert fills(crossing) == [(1, 1.0, 101.0)]
    assert crossing.commission_N.tolist() == pytest.approx([0.101])
    tight = run_events(market, at({0: Order(symbol="A", units=1.0, limit=100.5)}), config(costs=costs))
    assert fills(tight) == [(1, 1.0, 100.5)]


def test_a_stop_sells_at_its_price_less_slippage_once_touched():
    market = bars([FLAT, FLAT, (100, 100, 93, 97)])
    wishes = [Order(symbol="A", units=2.0), Order(symbol="A", units=-2.0, stop=95.0, reduce_only=True)]
    result = run_events(market, at({0: wishes}), config(costs=CostModel(commission_bps=0.0, slippage_bps=100.0)))
    assert fills(result) == [(1, 2.0, 101.0), (2, -2.0, pytest.approx(95.0 * 0.99))]


def test_a_gap_through_a_stop_fills_at_the_open():
    market = bars([FLAT, FLAT, (80, 85, 79, 84)])
    wishes = [Order(symbol="A", units=2.0), Order(symbol="A", units=-2.0, stop=95.0, reduce_only=True)]
    result = run_events(market, at({0: wishes}), config())
    assert fills(result) == [(1, 2.0, 100.0), (2, -2.0, 80.0)]
    assert result.cash_T[-1] == 960.0


def test_a_buy_stop_enters_above_the_market():
    market = bars([FLAT, FLAT, (100, 106, 99, 104), FLAT])
    assert fills(run_events(market, at({0: Order(symbol="A", units=1.0, stop=105.0)}), config())) == [(2, 1.0, 105.0)]


def test_a_stop_limit_is_a_limit_from_the_bar_after_its_touch():
    market = bars([FLAT, (100, 106, 99, 106), (107, 108, 104, 105)])
    order = Order(symbol="A", units=1.0, stop=105.0, limit=105.5)
    assert fills(run_events(market, at({0: order}), config())) == [(2, 1.0, 105.5)]


def test_a_stop_limit_that_the_open_sets_off_crosses_as_a_taker():
    costs = CostModel(commission_bps=10.0, maker_bps=0.0, slippage_bps=0.0)
    market = bars([FLAT, FLAT, (106, 108, 104, 105)])
    result = run_events(market, at({0: Order(symbol="A", units=1.0, stop=105.0, limit=110.0)}), config(costs=costs))
    assert fills(result) == [(2, 1.0, 106.0)]
    assert result.commission_N.tolist() == pytest.approx([0.106])


def test_of_a_stop_and_a_target_in_one_bar_the_stop_counts_and_takes_the_other_with_it():
    market = bars([FLAT, FLAT, (100, 120, 80, 100), (100, 120, 80, 100)])
    wishes = [
        Order(symbol="A", units=1.0),
        Order(symbol="A", units=-1.0, limit=110.0, reduce_only=True, group="exit"),
        Order(symbol="A", units=-1.0, stop=90.0, reduce_only=True, group="exit"),
    ]
    result = run_events(market, at({0: wishes}), config())
    assert fills(result) == [(1, 1.0, 100.0), (2, -1.0, 90.0)]
    assert statuses(result) == ["filled", "cancelled", "filled"]


def test_a_reducing_stop_does_nothing_while_there_is_no_position():
    market = bars([FLAT, (100, 100, 80, 100), FLAT, FLAT])
    script = {0: Order(symbol="A", units=-1.0, stop=90.0, reduce_only=True), 1: Order(symbol="A", units=1.0)}
    result = run_events(market, at(script), config(allow_short=True))
    assert fills(result) == [(2, 1.0, 100.0)]
    assert statuses(result) == ["open", "filled"]


def test_a_long_only_account_sells_no_more_than_it_has():
    script = {0: Order(symbol="A", units=3.0), 1: Order(symbol="A", units=-5.0), 2: Order(symbol="A", units=-1.0)}
    result = run_events(bars([FLAT] * 5), at(script), config())
    assert fills(result) == [(1, 3.0, 100.0), (2, -3.0, 100.0)]
    assert statuses(result) == ["filled", "cancelled", "cancelled"]


def test_an_order_beyond_the_capital_is_cut_to_it_and_its_rest_cancelled():
    result = run_events(bars([FLAT] * 4), at({0: Order(symbol="A", units=30.0)}), config())
    assert fills(result) == [(1, 10.0, 100.0)]
    assert statuses(result) == ["cancelled"]


def test_an_order_by_weight_is_sized_when_it_is_given():
    market = bars([(100, 101, 79, 80), (100, 101, 99, 100)])
    assert fills(run_events(market, at({0: Order(symbol="A", weight=0.4)}), config())) == [(1, 5.0, 100.0)]


def test_no_more_than_a_share_of_each_bars_volume_fills_and_the_rest_waits():
    market = bars([FLAT] * 5, volume=[100.0, 30.0, 0.0, 50.0, 100.0])
    execution = ExecutionConfig(max_volume_share=0.1)
    by_order = run_events(market, at({0: Order(symbol="A", units=9.0)}), config(), execution=execution)
    by_weight = run_events(market, at({0: np.array([0.9])}), config(), execution=execution)
    assert fills(by_order) == fills(by_weight) == [(1, 3.0, 100.0), (3, 5.0, 100.0), (4, 1.0, 100.0)]
    assert statuses(by_order) == ["filled"]


def test_two_orders_share_the_volume_of_a_bar_in_the_order_given():
    market = bars([FLAT] * 3, volume=[100.0, 30.0, 30.0])
    wishes = [Order(symbol="A", units=2.0), Order(symbol="A", units=2.0)]
    result = run_events(market, at({0: wishes}), config(), execution=ExecutionConfig(max_volume_share=0.1))
    assert [(*fill, name) for fill, name in zip(fills(result), result.log.order_N, strict=True)] == [
        (1, 2.0, 100.0, "1"),
        (1, 1.0, 100.0, "2"),
        (2, 1.0, 100.0, "2"),
    ]


def test_a_bound_on_volume_fills_whole_lots():
    market = bars([FLAT] * 4, volume=[100.0, 25.0, 25.0, 25.0])
    execution = ExecutionConfig(max_volume_share=0.1)
    result = run_events(market, at({0: Order(symbol="A", units=5.0)}), config(lot_units=1.0), execution=execution)
    assert fills(result) == [(1, 2.0, 100.0), (2, 2.0, 100.0), (3, 1.0, 100.0)]


def test_latency_makes_an_order_miss_the_opens_before_it_arrives():
    market = bars([(p, p, p, p) for p in (100.0, 101.0, 102.0, 103.0)])
    script = {0: Order(symbol="A", units=1.0)}
    assert fills(run_events(market, at(script), config())) == [(1, 1.0, 101.0)]
    late = ExecutionConfig(latency_us=1)
    assert fills(run_events(market, at(script), config(), execution=late)) == [(2, 1.0, 102.0)]
    later = ExecutionConfig(latency_us=DAY_US + 1)
    assert fills(run_events(market, at({0: np.array([0.1])}), config(), execution=later)) == [(3, 1.0, 103.0)]


def test_a_cancellation_is_as_late_as_an_order():
    market = bars([FLAT, FLAT, (100, 101, 90, 95), FLAT])
    script = {0: Order(symbol="A", units=1.0, limit=95.0, id="low"), 1: Cancel("low")}
    assert fills(run_events(market, at(script), config())) == []
    assert fills(run_events(market, at({0: script[0], 2: Cancel("low")}), config())) == [(2, 1.0, 95.0)]


def test_an_order_for_the_day_ends_with_it_and_an_immediate_one_after_its_first_price():
    market = bars([FLAT, FLAT, (100, 101, 90, 95)])
    for kind in ("day", "ioc"):
        order = Order(symbol="A", units=1.0, limit=95.0, time_in_force=kind)
        result = run_events(market, at({0: order}), config())
        assert (fills(result), statuses(result)) == ([], ["cancelled"])


def test_a_limit_off_the_grid_of_prices_is_moved_to_the_safe_side():
    market = bars([FLAT, (100, 101, 94, 95)])
    result = run_events(market, at({0: Order(symbol="A", units=1.0, limit=95.3)}), config(tick=0.5))
    assert fills(result) == [(1, 1.0, 95.0)]


def test_manage_risk_comes_after_the_signals_and_its_orders_count_too():
    class Careful(Strategy):
        def generate_signals(self, view: MarketView) -> Decision:
            return {"A": 1.0} if view.t == 0 else None

        def manage_risk(self, view: MarketView) -> Decision:
            return {"A": 0.0} if view.position(0) > 0.0 and view.price(0) < 95.0 else None

    market = bars([FLAT, FLAT, (100, 100, 90, 90), (91, 92, 90, 91)])
    assert fills(run_events(market, Careful(), config())) == [(1, 10.0, 100.0), (3, -10.0, 91.0)]


def test_a_breakout_is_bought_by_a_stop_and_left_by_whichever_exit_comes_first():
    class Breakout(Strategy):  # as in docs/backtest.md
        def generate_signals(self, view: MarketView) -> Decision:
            if view.t < 20 or view.position():
                return None
            top = view.high[-20:, 0].max()
            return [
                *(Cancel(order.id) for order in view.orders),
                Order(symbol="A", weight=0.5, stop=top),
                Order(symbol="A", weight=-0.5, stop=0.95 * top, reduce_only=True, group="exit"),
                Order(symbol="A", weight=-0.5, limit=1.10 * top, reduce_only=True, group="exit"),
            ]

    result = run_events(BarEvents(random_walk(1000, 1, seed=2)), Breakout(), config())
    signs = np.sign(result.orders.units_N)
    assert len(signs) > 10
    np.testing.assert_array_equal(signs, np.where(np.arange(len(signs)) % 2 == 0, 1.0, -1.0))
    assert set(result.log.maker_N[signs < 0].tolist()) == {False, True}
    assert (result.positions_TS >= 0.0).all()


# --- trades and books


def test_on_trades_an_order_takes_a_share_of_each_trade_after_it_arrives():
    market = trades([("A", n, 100.0 + n, 4.0) for n in range(6)])
    execution = ExecutionConfig(latency_us=1_500_000, max_volume_share=0.5)
    result = run_events(market, at({0: Order(symbol="A", units=3.0)}), config(), execution=execution)
    assert fills(result) == [(2, 2.0, 102.0), (3, 1.0, 103.0)]


def test_on_trades_a_waiting_limit_fills_at_its_price_and_a_stop_at_the_trade_that_touches_it():
    market = trades([("A", n, price, 9.0) for n, price in enumerate((100.0, 100.0, 94.0, 97.0, 106.0, 90.0))])
    wishes = [Order(symbol="A", units=1.0, limit=95.0), Order(symbol="A", units=1.0, stop=105.0)]
    assert fills(run_events(market, at({0: wishes}), config())) == [(2, 1.0, 95.0), (4, 1.0, 106.0)]


def test_two_orders_share_the_amount_of_a_trade_and_of_a_level():
    wishes = [Order(symbol="A", units=2.0), Order(symbol="A", units=1.0)]
    execution = ExecutionConfig(max_volume_share=0.5)
    on_trades = run_events(
        trades([("A", n, 100.0, 4.0) for n in range(3)]), at({0: wishes}), config(), execution=execution
    )
    assert fills(on_trades) == [(1, 2.0, 100.0), (2, 1.0, 100.0)]
    on_books = run_events(book([(n, *SNAPSHOT) for n in range(3)]), at({0: wishes}), config())
    assert fills(on_books) == [(1, 2.0, 101.0), (1, 1.0, 102.0)]


def test_trades_of_one_moment_are_known_together():
    market = trades([("A", 0, 100.0, 1.0), ("A", 1, 101.0, 1.0), ("A", 1, 102.0, 1.0), ("B", 1, 50.0, 1.0)])
    seen: list[list[tuple[str, float]]] = []
    run_events(market, Follow(lambda view: seen.append([(e.symbol, e.price) for e in view.events()])), config())
    assert seen == [[("A", 100.0)], [("A", 101.0), ("B", 50.0), ("A", 102.0)]]


def test_on_books_a_market_order_walks_the_levels_and_the_rest_waits_for_the_next_book():
    market = book([(0, *SNAPSHOT), (1, *SNAPSHOT), (2, *SNAPSHOT)])
    result = run_events(market, at({0: Order(symbol="A", units=6.0)}), config())
    assert fills(result) == [(1, 2.0, 101.0), (1, 3.0, 102.0), (2, 1.0, 101.0)]
    assert result.positions_TS[:, 0].tolist() == [0.0, 5.0, 6.0]
    assert result.equity_T[1] == pytest.approx(1000.0 - 202.0 - 306.0 + 5.0 * 100.0)


def test_a_delta_changes_the_levels_it_names_and_no_others():
    rows = [(0, *SNAPSHOT), (1, [(98, 4)], [(101, 0), (101.5, 1)])]
    market = book(rows, kinds=("snapshot", "delta"))
    assert market.events(1)[0].bids == ((99.0, 2.0), (98.0, 4.0))
    assert market.events(1)[0].asks == ((101.5, 1.0), (102.0, 3.0))
    best = book(rows, kinds=("snapshot", "delta"), levels=1)
    assert (best.events(1)[0].bids, best.events(1)[0].asks) == (((99.0, 2.0),), ((101.5, 1.0),))


def test_on_books_a_limit_waits_until_the_other_side_comes_to_it():
    market = book([(0, *SNAPSHOT), (1, *SNAPSHOT), (2, [(95, 1)], [(99, 1.5), (101, 9)])])
    costs = CostModel(commission_bps=10.0, maker_bps=1.0, slippage_bps=0.0)
    result = run_events(market, at({0: Order(symbol="A", units=4.0, limit=100.0)}), config(costs=costs))
    assert fills(result) == [(2, 1.5, 100.0)]
    assert result.log.maker_N.tolist() == [True]
    assert result.commission_N.tolist() == pytest.approx([150.0 * 1e-4])


def test_on_books_a_sale_stops_out_at_the_bid():
    market = book([(0, *SNAPSHOT), (1, *SNAPSHOT), (2, [(90, 9)], [(92, 9)])])
    wishes = [Order(symbol="A", units=1.0), Order(symbol="A", units=-1.0, stop=95.0, reduce_only=True)]
    assert fills(run_events(market, at({0: wishes}), config())) == [(1, 1.0, 101.0), (2, -1.0, 90.0)]


# --- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "has no size"),
        ({"units": 1.0, "weight": 0.1}, "has no size"),
        ({"units": 0.0}, "has no size"),
        ({"units": NAN}, "has no size"),
        ({"units": 1.0, "limit": -1.0}, "limit=-1.0"),
        ({"units": 1.0, "stop": NAN}, "stop=nan"),
        ({"units": 1.0, "time_in_force": "forever"}, "forever"),
        ({"units": 1.0, "stop": 9.0, "time_in_force": "ioc"}, "cannot be 'ioc'"),
    ],
)
def test_an_order_that_cannot_be_is_refused(settings, message):
    with pytest.raises(BacktestError, match=message):
        Order(symbol="A", **settings)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Order(symbol="B", units=1.0), "no symbol 'B'"),
        ({"A": 2.0}, "more than the whole capital"),
        ({"A": -1.0}, "short on a long-only"),
        (np.array([0.5, 0.5]), r"shape \(2,\)"),
        (5, "answered 5"),
        ([np.array([0.5])], "among its orders"),
        (
            [Order(symbol="A", units=1.0, limit=1.0, id="x"), Order(symbol="A", units=1.0, id="x")],
            "open order 'x' already",
        ),
    ],
)
def test_an_answer_that_cannot_be_traded_is_refused(answer, message):
    with pytest.raises(BacktestError, match=message):
        run_events(bars([FLAT] * 3), at({0: answer}), config())


def test_an_order_before_the_first_price_is_refused():
    market = BarEvents(panel([[1.0, NAN], [1.0, 2.0]]))
    with pytest.raises(BacktestError, match="before its first price"):
        run_events(market, at({0: Order(symbol="B", units=1.0)}), config())


def test_settings_that_the_engine_cannot_honour_are_refused():
    idle = at({})
    with pytest.raises(BacktestError, match="manage_risk"):
        run_events(bars([FLAT] * 2), idle, config(risk=RiskRules(stop_loss=0.1)))
    with pytest.raises(BacktestError, match="max_volume_share needs bars"):
        run_events(bars([FLAT] * 2), idle, config(), execution=ExecutionConfig(max_volume_share=0.1))
    with pytest.raises(BacktestError, match="measured by the volume of bars"):
        run_events(trades([("A", 0, 1.0, 1.0), ("A", 1, 1.0, 1.0)]), idle, config(costs=replace(FREE, impact_bps=1.0)))
    for name, value in (("latency_us", -1), ("max_volume_share", 0.0), ("limits_need", "luck")):
        with pytest.raises(ConfigError, match=name):
            ExecutionConfig(**{name: value})


def test_events_that_cannot_be_are_refused():
    with pytest.raises(BacktestError, match="must hold the others"):
        bars([FLAT, (100, 99, 98, 100)])
    with pytest.raises(SchemaError, match="'high'"):
        BarEvents.from_bars(pl.DataFrame({"symbol": [], "timestamp": [], "open": [], "low": [], "close": []}))
    with pytest.raises(BookError, match="before any snapshot"):
        book([(0, *SNAPSHOT), (1, *SNAPSHOT)], kinds=("delta", "delta"))
    with pytest.raises(BookError, match="sequence 2, follows 0: a message is lost"):
        book([(0, *SNAPSHOT), (2, *SNAPSHOT)], kinds=("snapshot", "delta"), sequences=(0, 2))
    with pytest.raises(BacktestError, match="levels=0"):
        book([(0, *SNAPSHOT), (1, *SNAPSHOT)], levels=0)
    with pytest.raises(BookError, match="crosses or lacks a side"):
        book([(0, *SNAPSHOT), (1, [(102, 1)], [(101, 1)])])
    with pytest.raises(BookError, match="crosses or lacks a side"):
        book([(0, *SNAPSHOT), (1, [(100, 1)], [])])


def test_bars_of_a_table_carry_their_range():
    table = pl.DataFrame(
        {
            "symbol": ["A", "A", "B"],
            "timestamp": [moment(0), moment(60), moment(60)],
            "open": [1.0, 2.0, 5.0],
            "high": [3.0, 4.0, 6.0],
            "low": [0.5, 1.5, 4.0],
            "close": [2.0, 3.0, 5.0],
            "volume": [7.0, 8.0, 9.0],
        }
    )
    source = BarEvents.from_bars(table)
    assert source.high_TS[1].tolist() == [4.0, 6.0]
    assert source.low_TS[1].tolist() == [1.5, 4.0]
    assert source.known_after_us == 60_000_000
    assert [event.symbol for event in source.events(0)] == ["A"]


def test_a_symbol_without_a_bar_now_can_be_asked_for_and_is_valued_at_its_last_close():
    prices = panel(
        [[10.0, 10.0], [10.0, NAN], [10.0, 20.0], [10.0, NAN]], [[10.0, 10.0], [10.0, NAN], [10.0, 25.0], [10.0, NAN]]
    )
    seen: list[float] = []

    def answer(view: MarketView) -> Decision:
        seen.append(view.equity)
        return {"B": 0.5} if view.t == 1 else None

    result = run_events(BarEvents(prices), Follow(answer), config())
    assert fills(result) == [(2, 50.0, 20.0)]
    assert seen == result.equity_T.tolist() == [1000.0, 1000.0, 1250.0, 1250.0]
