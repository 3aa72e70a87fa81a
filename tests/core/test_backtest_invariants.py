"""Whatever happens, money is conserved, orders equal the slow reference, and the order of symbols does not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.backtest import BacktestConfig, BarPanel, run_backtest, run_backtests
from quantfleet.ledger import BPS, CostModel

from .backtest_support import NAN, config, panel, random_walk, scenarios, weights
from .reference_account import ReferenceAccount, reference_backtest

# --- invariants


anything = st.one_of(
    scenarios(shorts=False),
    scenarios(shorts=True),
    scenarios(shorts=False, everything=True),
    scenarios(shorts=True, everything=True),
)


@settings(max_examples=300, deadline=None)
@given(scenario=anything)
def test_every_order_and_the_equity_equal_the_reference(scenario: tuple[BarPanel, np.ndarray, BacktestConfig]):
    prices, target, settings_ = scenario
    result = run_backtest(prices, target, settings_)
    costs = settings_.costs
    expected = reference_backtest(
        prices.symbols,
        prices.open_TS.tolist(),
        prices.close_TS.tolist(),
        target.tolist(),
        account=ReferenceAccount(
            1000.0,
            costs.commission_rate,
            costs.slippage_rate,
            impact=costs.impact_bps * BPS,
            leverage=settings_.leverage,
            lot=settings_.lot_units,
            tick=settings_.tick,
        ),
        band=settings_.rebalance_band,
        borrow_per_bar=costs.borrow_rate_per_year / 365.0,
        interest_per_bar=costs.margin_rate_per_year / 365.0,
        maintenance=settings_.maintenance_margin,
        funding=None if prices.funding_TS is None else prices.funding_TS.tolist(),
        volumes=None if not costs.impact_bps else prices.volume_TS.tolist(),
    )
    assert result.equity_T == pytest.approx(expected.equity, rel=1e-9, abs=1e-6)
    assert result.cash_T == pytest.approx(expected.cash, rel=1e-9, abs=1e-6)
    got = [
        (symbol, side, pytest.approx(n, rel=1e-6, abs=1e-7), pytest.approx(price, rel=1e-12))
        for symbol, side, n, price in result.trades.select("symbol", "side", "units", "price").rows()
    ]
    rank = {name: s for s, name in enumerate(prices.symbols)}
    ordered = sorted(expected.fills, key=lambda pair: (pair[0], rank[pair[1].symbol]))
    wanted = [(f.symbol, "buy" if f.units > 0 else "sell", abs(f.units), f.price) for _, f in ordered]
    assert wanted == got
    assert np.flatnonzero(result.margin_call_T).tolist() == expected.calls


@settings(max_examples=200, deadline=None)
@given(scenario=anything)
def test_money_is_conserved(scenario: tuple[BarPanel, np.ndarray, BacktestConfig]):
    """Cash moves by fills, commissions and what holding costs only,
    and the equity is what prices earned on the positions, less all costs."""
    prices, target, settings_ = scenario
    result = run_backtest(prices, target, settings_)
    trades = result.trades
    sign = np.where(trades["side"].to_numpy() == "buy", 1.0, -1.0)
    scale = 1000.0 + trades["notional"].sum()
    holding = result.borrow_T.sum() + result.interest_T.sum() + result.funding_T.sum()
    spent = (sign * trades["notional"].to_numpy()).sum() + trades["commission"].sum() + holding
    assert result.cash_T[-1] == pytest.approx(1000.0 - spent, abs=1e-9 * scale)

    last = pl.DataFrame(prices.close_TS).fill_nan(None).fill_null(strategy="forward").to_numpy()
    assert result.value_TS == pytest.approx(np.nan_to_num(result.positions_TS * last), abs=1e-9 * scale)
    assert result.equity_T == pytest.approx(result.cash_T + result.value_TS.sum(axis=1), abs=1e-9 * scale)

    held_before = np.vstack([np.zeros(len(prices.symbols)), result.positions_TS[:-1]])
    known = np.nan_to_num(last)
    before = np.vstack([known[:1], known[:-1]])
    traded_at = np.where(np.isnan(prices.open_TS), before, prices.open_TS)
    overnight = (held_before * (traded_at - before)).sum()
    intraday = (result.positions_TS * np.where(result.positions_TS != 0.0, known - traded_at, 0.0)).sum()
    costs = trades["commission"].sum() + trades["slippage_cost"].sum() + holding
    assert result.equity_T[-1] == pytest.approx(1000.0 + overnight + intraday - costs, abs=1e-9 * scale)


@settings(max_examples=200, deadline=None)
@given(scenario=st.one_of(scenarios(shorts=False, everything=True), scenarios(shorts=True, everything=True)))
def test_equity_is_never_gone_without_a_margin_call(scenario: tuple[BarPanel, np.ndarray, BacktestConfig]):
    result = run_backtest(*scenario)
    assert result.margin_call_T[result.equity_T <= 0.0].all()


@settings(max_examples=150, deadline=None)
@given(scenario=st.one_of(scenarios(shorts=False, everything=True), scenarios(shorts=True, everything=True)))
def test_openings_never_lift_the_gross_exposure_above_the_leverage(
    scenario: tuple[BarPanel, np.ndarray, BacktestConfig],
):
    """At the fill, at market prices: wherever a bar's trades opened something, exposure is within the leverage."""
    prices, target, settings_ = scenario
    result = run_backtest(prices, target, settings_)
    held_before = np.vstack([np.zeros(len(prices.symbols)), result.positions_TS[:-1]])
    before = np.vstack([np.zeros(len(prices.symbols)), prices.marks_TS[:-1]])
    for t in range(len(prices.time_T)):
        market = np.where(np.isnan(prices.open_TS[t]), before[t], prices.open_TS[t])
        held = result.positions_TS[t]
        opened = np.abs(held) > np.abs(held_before[t]) * (1.0 + 1e-9)
        if (opened | (held * held_before[t] < 0.0)).any():
            gross, equity = np.abs(held * market).sum(), result.cash_T[t] + (held * market).sum()
            assert gross <= settings_.leverage * equity + 1e-6 * 1000.0


@settings(max_examples=100, deadline=None)
@given(scenario=scenarios(shorts=False))
def test_a_long_only_account_never_owes_money(scenario: tuple[BarPanel, np.ndarray, BacktestConfig]):
    result = run_backtest(*scenario)
    assert (result.cash_T >= -1e-9 * 1000.0).all()
    assert (result.equity_T >= 0.0).all()
    assert (result.positions_TS >= 0.0).all()


@settings(max_examples=60, deadline=None)
@given(scenario=st.one_of(scenarios(shorts=True), scenarios(shorts=True, everything=True)), data=st.data())
def test_the_order_of_symbols_does_not_matter(
    scenario: tuple[BarPanel, np.ndarray, BacktestConfig], data: st.DataObject
):
    prices, target, settings_ = scenario
    order = data.draw(st.permutations(range(len(prices.symbols))))
    shuffled = replace(
        panel(prices.open_TS[:, order], prices.close_TS[:, order], tuple(prices.symbols[s] for s in order)),
        volume_TS=None if prices.volume_TS is None else prices.volume_TS[:, order],
        funding_TS=None if prices.funding_TS is None else prices.funding_TS[:, order],
    )
    straight = run_backtest(prices, target, settings_)
    other = run_backtest(shuffled, target[:, order], settings_)
    assert other.equity_T == pytest.approx(straight.equity_T, rel=1e-9, abs=1e-6)
    assert other.positions_TS == pytest.approx(straight.positions_TS[:, order], rel=1e-9, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(moves=st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=20))
def test_buy_and_hold_without_costs_earns_the_price_ratio(moves: list[float]):
    closes = 100.0 * np.exp(np.cumsum(moves))
    opens = np.concatenate([closes[:1], closes[:-1]])
    result = run_backtest(panel(opens, closes), weights([1.0] + [NAN] * (len(moves) - 1)), config())
    assert result.equity_T == pytest.approx(1000.0 * closes / closes[0], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    moves=st.lists(st.floats(-0.5, 0.5), min_size=4, max_size=12),
    share=st.floats(0.05, 1.0),
    bps=st.tuples(*[st.floats(0.0, 200.0)] * 4),
)
def test_a_round_trip_never_earns_more_at_higher_costs(moves: list[float], share: float, bps: tuple[float, ...]):
    prices = panel(100.0 * np.exp(np.cumsum(moves)))
    target = weights([share] + [NAN] * (len(moves) - 3) + [0.0, NAN])
    cheap = CostModel(commission_bps=min(bps[0], bps[1]), slippage_bps=min(bps[2], bps[3]))
    dear = CostModel(commission_bps=max(bps[0], bps[1]), slippage_bps=max(bps[2], bps[3]))
    ends = [run_backtest(prices, target, config(costs=costs)).equity_T[-1] for costs in (cheap, dear)]
    assert ends[1] <= ends[0] * (1.0 + 1e-12)


def test_an_active_strategy_earns_less_at_every_step_of_costs():
    prices, rng = random_walk(400, 3, seed=4), np.random.default_rng(5)
    target = rng.dirichlet(np.ones(4), 400)[:, :3]
    ends = [
        run_backtest(prices, target, config(costs=CostModel(commission_bps=b, slippage_bps=b))).equity_T[-1]
        for b in (0.0, 5.0, 10.0, 25.0, 50.0)
    ]
    assert ends == sorted(ends, reverse=True)
    assert len(set(ends)) == 5


def test_ten_times_the_capital_makes_ten_times_the_money():
    prices, rng = random_walk(100, 3, seed=6), np.random.default_rng(7)
    target = rng.dirichlet(np.ones(4), 100)[:, :3]
    small, large = (run_backtest(prices, target, BacktestConfig(initial_capital=c)) for c in (1e3, 1e4))
    assert large.equity_T == pytest.approx(10.0 * small.equity_T, rel=1e-9)


def test_strategies_run_together_equal_each_run_alone():
    prices, rng = random_walk(80, 3, seed=8), np.random.default_rng(9)
    targets = {f"strategy {i}": rng.dirichlet(np.ones(4), 80)[:, :3] for i in range(4)}
    targets["idle"] = np.full((80, 3), NAN)
    together = run_backtests(prices, targets, BacktestConfig())
    assert list(together) == list(targets)
    for name, target in targets.items():
        alone = run_backtest(prices, target, BacktestConfig())
        assert np.array_equal(together[name].equity_T, alone.equity_T)
        assert together[name].trades.equals(alone.trades)
    assert together["idle"].trades.is_empty()
