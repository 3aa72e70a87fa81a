"""Whatever is ordered: money is conserved, nothing is known or filled too early, and the order of symbols does not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.backtest import BarPanel
from quantfleet.backtest.events import (
    BarEvents,
    Decision,
    ExecutionConfig,
    MarketView,
    Order,
    run_events,
)
from quantfleet.errors import BacktestError
from quantfleet.ledger import CostModel

from .backtest_support import config
from .event_support import FLAT, Follow, at, bars, markets, trades


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


@st.composite
def tapes(draw: Callable[..., object]) -> tuple[list[tuple[str, float, float, float]], dict[int, list[Order]]]:
    """Random trades of two symbols, several at one time, and random orders."""
    near = st.floats(90.0, 110.0)
    one = st.tuples(st.sampled_from("AB"), st.integers(1, 5), near, st.floats(0.5, 4.0))
    rows = [("A", 0.0, 100.0, 1.0), ("B", 0.0, 100.0, 1.0), *draw(st.lists(one, min_size=3, max_size=12))]  # type: ignore[misc]
    order = st.builds(
        Order,
        symbol=st.sampled_from("AB"),
        units=st.sampled_from([-4.0, -1.0, 1.0, 4.0]),
        limit=st.none() | near,
        stop=st.none() | near,
        reduce_only=st.booleans(),
    )
    return rows, draw(st.dictionaries(st.integers(0, 3), st.lists(order, max_size=3), max_size=3))  # type: ignore[return-value]


@settings(max_examples=60, deadline=None)
@given(tapes(), st.sampled_from([0, 1_500_000]), st.sampled_from([None, 0.5]), st.booleans())
def test_on_trades_too_money_is_conserved_nothing_is_early_and_symbols_are_alike(tape, latency_us, share, short):
    rows, script = tape
    account = config(costs=CostModel(commission_bps=10.0, maker_bps=2.0, slippage_bps=20.0), allow_short=short)
    execution = ExecutionConfig(latency_us=latency_us, max_volume_share=share)
    result = run_events(trades(rows), at(script), account, execution=execution)
    assert result.cash_T[-1] == pytest.approx(
        1000.0 - (result.orders.units_N * result.price_N + result.commission_N).sum()
    )
    working = {w.id: w for w in result.working}
    time_us = result.time_T.astype(np.int64)
    for n, name in enumerate(result.log.order_N):
        if name is None:
            continue  # a margin call
        w, t, units, price = working[name], result.orders.bar_N[n], result.orders.units_N[n], result.price_N[n]
        assert t > w.decided_row
        assert time_us[t] >= time_us[w.decided_row] + latency_us
        if w.limit is not None:
            assert price <= w.limit * (1 + 1e-12) if units > 0 else price >= w.limit * (1 - 1e-12)
    other = {"A": "B", "B": "A"}
    mirrored = run_events(
        trades([(other[symbol], *rest) for symbol, *rest in rows]),
        at({t: [replace(order, symbol=other[order.symbol]) for order in orders] for t, orders in script.items()}),
        account,
        execution=execution,
    )
    np.testing.assert_allclose(mirrored.equity_T, result.equity_T, rtol=1e-9)
    np.testing.assert_allclose(mirrored.positions_TS[:, ::-1], result.positions_TS, rtol=1e-9, atol=1e-9)


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
