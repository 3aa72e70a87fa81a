"""The event engine: the same trades as the vectorised one, orders worked by hand, nothing known too early, no money lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.backtest import BacktestConfig, BarPanel, run_backtest
from quantfleet.backtest.events import (
    BarEvents,
    BookEvents,
    Cancel,
    Decision,
    EventResult,
    ExecutionConfig,
    MarketView,
    Order,
    Strategy,
    TradeEvents,
    run_events,
)
from quantfleet.errors import BacktestError, BookError, ConfigError, SchemaError
from quantfleet.ledger import CostModel, RiskRules

from .backtest_support import FREE, NAN, config, panel, random_walk, scenarios

DAY_US = 86_400_000_000


class Follow(Strategy):
    """Answers what a function of the view says."""

    def __init__(self, answer: Callable[[MarketView], Decision]) -> None:
        self.answer = answer

    def generate_signals(self, view: MarketView) -> Decision:
        return self.answer(view)


def at(script: Mapping[int, Decision]) -> Strategy:
    """Decides at the rows of a script."""
    return Follow(lambda view: script.get(view.t))


def bars(rows: list[tuple[float, float, float, float]], volume: list[float] | None = None) -> BarEvents:
    """One symbol A; rows of open, high, low, close."""
    open_T, high_T, low_T, close_T = (np.array(column)[:, None] for column in zip(*rows, strict=True))
    prices = panel(open_T, close_T)
    if volume is not None:
        prices = replace(prices, volume_TS=np.array(volume)[:, None])
    return BarEvents(prices, high_TS=high_T, low_TS=low_T)


FLAT = (100.0, 101.0, 99.0, 100.0)


def fills(result: EventResult) -> list[tuple[int, float, float]]:
    """Row, units and price of each."""
    return list(zip(result.orders.bar_N.tolist(), result.orders.units_N.tolist(), result.price_N.tolist(), strict=True))


def statuses(result: EventResult) -> list[str]:
    return result.order_history()["status"].to_list()


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


# --- trades and books


def moment(second: float) -> datetime:
    return datetime(2024, 5, 1, tzinfo=UTC) + timedelta(seconds=second)


def trades(rows: list[tuple[str, float, float, float]]) -> TradeEvents:
    """Rows of symbol, second, price and amount."""
    symbol, second, price, amount = zip(*rows, strict=True)
    table = pl.DataFrame(
        {
            "symbol": symbol,
            "timestamp": [moment(s) for s in second],
            "trade_id": [str(n) for n in range(len(rows))],
            "price": price,
            "amount": amount,
            "side": ["buy"] * len(rows),
        }
    )
    return TradeEvents(table.sort("symbol", "timestamp", maintain_order=True))


def test_on_trades_an_order_takes_a_share_of_each_trade_after_it_arrives():
    market = trades([("A", n, 100.0 + n, 4.0) for n in range(6)])
    execution = ExecutionConfig(latency_us=1_500_000, max_volume_share=0.5)
    result = run_events(market, at({0: Order(symbol="A", units=3.0)}), config(), execution=execution)
    assert fills(result) == [(2, 2.0, 102.0), (3, 1.0, 103.0)]


def test_on_trades_a_waiting_limit_fills_at_its_price_and_a_stop_at_the_trade_that_touches_it():
    market = trades([("A", n, price, 9.0) for n, price in enumerate((100.0, 100.0, 94.0, 97.0, 106.0, 90.0))])
    wishes = [Order(symbol="A", units=1.0, limit=95.0), Order(symbol="A", units=1.0, stop=105.0)]
    assert fills(run_events(market, at({0: wishes}), config())) == [(2, 1.0, 95.0), (4, 1.0, 106.0)]


def test_trades_of_one_moment_are_known_together():
    market = trades([("A", 0, 100.0, 1.0), ("A", 1, 101.0, 1.0), ("A", 1, 102.0, 1.0), ("B", 1, 50.0, 1.0)])
    seen: list[list[tuple[str, float]]] = []
    run_events(market, Follow(lambda view: seen.append([(e.symbol, e.price) for e in view.events()])), config())
    assert seen == [[("A", 100.0)], [("A", 101.0), ("B", 50.0), ("A", 102.0)]]


def book(
    rows: list[tuple[float, list[tuple[float, float]], list[tuple[float, float]]]], kind: str = "snapshot"
) -> BookEvents:
    """Rows of second, bids and asks of symbol A."""
    table = [
        {
            "symbol": "A",
            "timestamp": moment(second),
            "sequence": n,
            "kind": kind,
            "side": side,
            "price": float(price),
            "amount": float(amount),
        }
        for n, (second, bids, asks) in enumerate(rows)
        for side, levels in (("bid", bids), ("ask", asks))
        for price, amount in levels
    ]
    return BookEvents(pl.DataFrame(table))


SNAPSHOT = ([(99, 2), (98, 5)], [(101, 2), (102, 3)])


def test_on_books_a_market_order_walks_the_levels_and_the_rest_waits_for_the_next_book():
    market = book([(0, *SNAPSHOT), (1, *SNAPSHOT), (2, *SNAPSHOT)])
    result = run_events(market, at({0: Order(symbol="A", units=6.0)}), config())
    assert fills(result) == [(1, 2.0, 101.0), (1, 3.0, 102.0), (2, 1.0, 101.0)]
    assert result.positions_TS[:, 0].tolist() == [0.0, 5.0, 6.0]
    assert result.equity_T[1] == pytest.approx(1000.0 - 202.0 - 306.0 + 5.0 * 100.0)


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


# --- properties


@st.composite
def markets(draw: Callable[..., object]) -> tuple[BarEvents, dict[int, list[Order]], BacktestConfig, ExecutionConfig]:
    """Random bars of up to three symbols, random orders of every kind, costs, latency and bounds on volume."""
    prices, _, account = draw(scenarios(shorts=draw(st.booleans())))  # type: ignore[call-overload, misc]
    rows = len(prices.close_TS)
    volume_TS = np.where(np.isnan(prices.close_TS), NAN, 5.0)
    stretch = 1.0 + draw(st.floats(0.0, 0.2))  # type: ignore[call-overload]
    source = BarEvents(
        replace(prices, volume_TS=volume_TS),
        high_TS=np.fmax(prices.open_TS, prices.close_TS) * stretch,
        low_TS=np.fmin(prices.open_TS, prices.close_TS) / stretch,
    )
    script: dict[int, list[Order]] = {}
    listed_TS = prices.listed()
    for t in range(rows):
        for s in np.flatnonzero(listed_TS[t]).tolist():
            price = float(prices.marks_TS[t, s])
            kinds = draw(st.lists(st.sampled_from(["market", "limit", "stop", "both"]), max_size=2))  # type: ignore[call-overload]
            for kind in kinds:
                near = st.floats(0.8, 1.2).map(lambda share, price=price: share * price)  # type: ignore[misc]
                script.setdefault(t, []).append(
                    Order(
                        symbol=prices.symbols[s],
                        units=draw(st.sampled_from([-6.0, -1.0, 1.0, 6.0])),  # type: ignore[call-overload]
                        limit=draw(near) if kind in ("limit", "both") else None,  # type: ignore[call-overload]
                        stop=draw(near) if kind in ("stop", "both") else None,  # type: ignore[call-overload]
                        reduce_only=draw(st.booleans()),  # type: ignore[call-overload]
                    )
                )
    latency = draw(st.sampled_from([0, 1, DAY_US, 2 * DAY_US]))  # type: ignore[call-overload]
    share = draw(st.sampled_from([None, 0.3]))  # type: ignore[call-overload]
    costs = replace(account.costs, maker_bps=3.0)
    return source, script, replace(account, costs=costs), ExecutionConfig(latency_us=latency, max_volume_share=share)


@settings(max_examples=150, deadline=None)
@given(markets())
def test_money_is_conserved_and_no_order_fills_before_it_arrived_or_worse_than_its_limit(case):
    source, script, account, execution = case
    result = run_events(source, at(script), account, execution=execution)
    paid = (result.orders.units_N * result.price_N + result.commission_N).sum() + result.borrow_T.sum()
    assert result.cash_T[-1] == pytest.approx(1000.0 - paid, abs=1e-8)
    np.testing.assert_allclose(result.equity_T, result.cash_T + result.value_TS.sum(axis=1), rtol=1e-12, atol=1e-9)
    working = {w.id: w for w in result.working}
    filled = dict.fromkeys(working, 0.0)
    time_us = result.time_T.astype(np.int64)
    taken = np.zeros(source.prices.close_TS.shape)
    for n, name in enumerate(result.log.order_N):
        t, s, units, price = (
            result.orders.bar_N[n],
            result.orders.symbol_N[n],
            result.orders.units_N[n],
            result.price_N[n],
        )
        taken[t, s] += abs(units)
        if name is None:
            continue  # a margin call
        w = working[name]
        assert t > w.decided_row
        assert time_us[t] >= time_us[w.decided_row] + source.known_after_us + execution.latency_us
        assert units * w.units > 0.0
        if w.limit is not None:
            assert price <= w.limit * (1 + 1e-12) if units > 0 else price >= w.limit * (1 - 1e-12)
        filled[name] += units
    for name, w in working.items():
        assert w.filled == pytest.approx(filled[name])
        assert abs(w.filled) <= abs(w.units) * (1 + 1e-9)
    if execution.max_volume_share is not None:
        assert (taken <= 0.3 * np.nan_to_num(source.prices.volume_TS) * (1 + 1e-9)).all()
    if not account.allow_short:
        assert (result.positions_TS >= -1e-9).all()


@settings(max_examples=100, deadline=None)
@given(markets())
def test_the_order_of_symbols_changes_nothing(case):
    source, script, account, execution = case
    prices = source.prices
    turned = BarEvents(
        BarPanel(
            open_TS=prices.open_TS[:, ::-1].copy(),
            close_TS=prices.close_TS[:, ::-1].copy(),
            volume_TS=prices.volume_TS[:, ::-1].copy(),
            time_T=prices.time_T,
            symbols=prices.symbols[::-1],
        ),
        high_TS=source.high_TS[:, ::-1].copy(),
        low_TS=source.low_TS[:, ::-1].copy(),
    )
    back = {t: sorted(orders, key=lambda order: order.symbol, reverse=True) for t, orders in script.items()}
    one, other = (
        run_events(events, at(orders), account, execution=execution)
        for events, orders in ((source, script), (turned, back))
    )
    np.testing.assert_allclose(one.equity_T, other.equity_T, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(one.positions_TS, other.positions_TS[:, ::-1], rtol=1e-9, atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(markets(), st.integers(1, 9))
def test_what_comes_later_changes_nothing_before(case, cut):
    source, script, account, execution = case
    prices = source.prices
    cut = min(cut, len(prices.time_T) - 1)
    changed = [values.copy() for values in (prices.open_TS, prices.close_TS, source.high_TS, source.low_TS)]
    for values in changed:
        values[cut:] *= 1.5
    other = BarEvents(replace(prices, open_TS=changed[0], close_TS=changed[1]), high_TS=changed[2], low_TS=changed[3])
    one, two = (run_events(events, at(script), account, execution=execution) for events in (source, other))
    np.testing.assert_array_equal(one.equity_T[:cut], two.equity_T[:cut])


# --- the view


@pytest.mark.parametrize(
    "ask",
    [
        lambda view: view.close[view.t + 1],
        lambda view: view.open[view.t + 1, 0],
        lambda view: view.high[: view.t + 2],
        lambda view: view.low[view.t + 2 :],
    ],
)
def test_a_strategy_that_asks_for_the_future_is_told_so(ask):
    with pytest.raises(BacktestError, match=r"row 0, which is not known yet"):
        run_events(bars([FLAT] * 4), Follow(lambda view: ask(view) and None), config())


def test_the_view_shows_what_is_known_and_lets_nothing_be_written():
    market = bars([(10, 12, 9, 11), (11, 14, 10, 13), (13, 14, 12, 12)], volume=[1, 2, 3])
    checked: list[int] = []

    def look(view: MarketView) -> Decision:
        if view.t != 1:
            return None
        checked.append(view.t)
        assert (view.close[-1, 0], view.close[0, 0], view.price(0), len(view.close)) == (13.0, 11.0, 13.0, 2)
        assert view.close[:].tolist() == np.asarray(view.close).tolist() == [[11.0], [13.0]]
        assert view.high[-1:, 0].tolist() == [14.0]
        assert view.volume[view.t, 0] == 2.0
        assert view.now == np.datetime64("2020-01-03", "us")
        assert (view.equity, view.cash, view.units.tolist(), view.orders, view.fills) == (1000.0, 1000.0, [0.0], (), ())
        (event,) = view.events()
        assert (event.open, event.high, event.low, event.close, event.volume) == (11.0, 14.0, 10.0, 13.0, 2.0)
        with pytest.raises(ValueError, match="read-only"):
            view.close[:][0] = 1.0
        with pytest.raises(BacktestError, match="before the first row"):
            view.close[-3]
        with pytest.raises(BacktestError, match="no row"):
            view.close["A"]
        with pytest.raises(BacktestError, match="There are A"):
            view.number("AA")
        return None

    run_events(market, Follow(look), config())
    assert checked == [1]


def test_the_view_shows_waiting_orders_positions_and_fills():
    seen: list[object] = []

    def look(view: MarketView) -> Decision:
        seen.append(
            ([w.id for w in view.orders], view.position(0), [(f.units, f.price) for f in view.fills], view.equity)
        )
        return (
            [Order(symbol="A", units=1.0), Order(symbol="A", units=1.0, limit=50.0, id="low")] if view.t == 0 else None
        )

    run_events(bars([FLAT, (100, 110, 99, 110), FLAT]), Follow(look), config())
    assert seen == [
        ([], 0.0, [], 1000.0),
        (["low"], 1.0, [(1.0, 100.0)], 1010.0),
        (["low"], 1.0, [], 1000.0),
    ]


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
    with pytest.raises(BookError, match="deltas"):
        book([(0, *SNAPSHOT), (1, *SNAPSHOT)], kind="delta")
    with pytest.raises(BookError, match="cross or lack a side"):
        book([(0, *SNAPSHOT), (1, [(102, 1)], [(101, 1)])])
    with pytest.raises(BookError, match="cross or lack a side"):
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
