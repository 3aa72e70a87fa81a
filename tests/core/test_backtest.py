"""Decisions at the close are filled at the next open, after costs, within the capital; orders equal the reference."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.backtest import TRADE_SCHEMA, BacktestConfig, BarPanel, PositionPolicy, run_backtest, run_backtests
from quantfleet.errors import BacktestError, ConfigError, SchemaError
from quantfleet.ledger import BPS, CostModel

from .reference_account import reference_backtest

FREE = CostModel(commission_bps=0.0, slippage_bps=0.0)
NAN = math.nan


def days(count: int) -> np.ndarray:
    return np.datetime64("2020-01-01", "us") + np.arange(count) * np.timedelta64(1, "D")


def panel(opens: object, closes: object | None = None, symbols: tuple[str, ...] | None = None) -> BarPanel:
    """A panel of daily bars; closes default to the opens; a flat list is one symbol."""
    open_TS = np.array(opens, dtype=np.float64)
    close_TS = open_TS if closes is None else np.array(closes, dtype=np.float64)
    if open_TS.ndim == 1:
        open_TS, close_TS = open_TS[:, None], close_TS[:, None]
    names = symbols or tuple("ABCDEFGH"[: open_TS.shape[1]])
    return BarPanel(open_TS=open_TS, close_TS=close_TS, time_T=days(len(open_TS)), symbols=names)


def weights(rows: object) -> np.ndarray:
    array = np.array(rows, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array


def config(**options: object) -> BacktestConfig:
    return BacktestConfig(**{"initial_capital": 1000.0, "costs": FREE, **options})  # type: ignore[arg-type]


def random_walk(bars: int, symbols: int, seed: int = 0, drift: float = 0.0) -> BarPanel:
    rng = np.random.default_rng(seed)
    close_TS = 100.0 * np.exp(np.cumsum(rng.normal(drift, 0.01, (bars, symbols)), axis=0))
    open_TS = np.vstack([np.full(symbols, 100.0), close_TS[:-1]]) * np.exp(rng.normal(0.0, 0.002, (bars, symbols)))
    return panel(open_TS, close_TS)


# --- the worked example


def test_two_symbols_over_four_bars_by_hand():
    """1000 of capital, 10 bps commission, 10 bps slippage.

    Close of bar 0: 40 % in each. Targets 400 / 10 = 40 A and 400 / 20 = 20 B.
    Open of bar 1:  buy 40 A at 10 x 1.001 = 10.01: 400.40, commission 0.4004, slippage 40 x 0.01 = 0.40.
                    buy 20 B at 20 x 1.001 = 20.02: 400.40, commission 0.4004, slippage 20 x 0.02 = 0.40.
                    cash 1000 - 2 x 400.8004 = 198.3992.
    Close of bar 1: A 11, B 20: equity 198.3992 + 440 + 400 = 1038.3992. Decision: keep A, no B.
    Open of bar 2:  sell 20 B at 19 x 0.999 = 18.981: 379.62, commission 0.37962, slippage 20 x 0.019 = 0.38.
                    cash 198.3992 + 379.62 - 0.37962 = 577.63958.
    Close of bar 2: A 12: equity 577.63958 + 480 = 1057.63958. Decision: all in A, so 1057.63958 / 12 = 88.136631667 A.
    Open of bar 3:  A opens at 13: 48.136631667 more would take 48.136631667 x 13.013 x 1.001 = 627.03: above the cash.
                    buy 577.63958 / 13.026013 = 44.345079342: notional 577.0625175, commission 0.577062517,
                    slippage 44.345079342 x 0.013 = 0.576486031. cash 0.
    Close of bar 3: A 12.5: equity 84.345079342 x 12.5 = 1054.313492. Its decision (all to cash) is never filled.
    """
    prices = panel(
        [[10.0, 20.0], [10.0, 20.0], [12.0, 19.0], [13.0, 20.0]],
        [[10.0, 20.0], [11.0, 20.0], [12.0, 19.0], [12.5, 21.0]],
    )
    target = weights([[0.4, 0.4], [NAN, 0.0], [1.0, 0.0], [0.0, 0.0]])
    result = run_backtest(prices, target, config(costs=CostModel(commission_bps=10.0, slippage_bps=10.0)))

    assert result.cash_T == pytest.approx([1000.0, 198.3992, 577.63958, 0.0], abs=1e-6)
    assert result.equity_T == pytest.approx([1000.0, 1038.3992, 1057.63958, 1054.313492], abs=1e-6)
    assert result.positions_TS.tolist()[:3] == [[0.0, 0.0], [40.0, 20.0], [40.0, 0.0]]
    assert result.positions_TS[3] == pytest.approx([84.345079342, 0.0], abs=1e-8)
    trades = result.trades
    assert trades["timestamp"].dt.day().to_list() == [2, 2, 3, 4]
    assert trades["symbol"].to_list() == ["A", "B", "B", "A"]
    assert trades["side"].to_list() == ["buy", "buy", "sell", "buy"]
    assert trades["units"].to_list() == pytest.approx([40.0, 20.0, 20.0, 44.345079342], abs=1e-8)
    assert trades["price"].to_list() == pytest.approx([10.01, 20.02, 18.981, 13.013])
    assert trades["notional"].to_list() == pytest.approx([400.40, 400.40, 379.62, 577.0625175], abs=1e-6)
    assert trades["commission"].to_list() == pytest.approx([0.4004, 0.4004, 0.37962, 0.577062517], abs=1e-8)
    assert trades["slippage_cost"].to_list() == pytest.approx([0.40, 0.40, 0.38, 0.576486031], abs=1e-8)
    assert result.net_return_T == pytest.approx(
        [0.0, 0.0383992, 1057.63958 / 1038.3992 - 1, 1054.313492 / 1057.63958 - 1]
    )
    assert result.gross_return_T[1] == pytest.approx((1038.3992 + 0.8008 + 0.80) / 1000.0 - 1)
    assert result.turnover_T == pytest.approx([0.0, 0.8008, 379.62 / 1038.3992, 577.0625175 / 1057.63958], abs=1e-9)
    assert result.drawdown_T == pytest.approx([0.0, 0.0, 0.0, 1054.313492 / 1057.63958 - 1], abs=1e-9)
    assert result.exposure_T == pytest.approx([0.0, 840.0 / 1038.3992, 480.0 / 1057.63958, 1.0], abs=1e-9)
    assert result.fills_T.tolist() == [0, 2, 1, 1]


# --- timing


def test_a_decision_is_filled_at_the_next_open_and_not_at_its_own_close():
    result = run_backtest(panel([100.0, 110.0], [100.0, 120.0]), weights([0.5, NAN]), config())
    assert result.trades["price"].to_list() == [110.0]
    assert result.positions_TS[:, 0].tolist() == [0.0, 5.0]


def test_units_are_sized_with_the_close_that_was_known_not_with_the_open_to_come():
    result = run_backtest(panel([100.0, 50.0, 50.0], [100.0, 50.0, 50.0]), weights([0.5, NAN, NAN]), config())
    assert result.positions_TS[1, 0] == 500.0 / 100.0


def test_a_decision_on_the_last_bar_is_never_filled():
    result = run_backtest(panel([100.0, 100.0, 100.0]), weights([NAN, NAN, 1.0]), config())
    assert result.trades.is_empty()
    assert result.trades.schema == TRADE_SCHEMA


def test_deciding_one_bar_later_turns_foresight_into_a_loss():
    closes = np.tile([100.0, 110.0], 20)
    opens = np.concatenate([[100.0], closes[:-1]])  # the move happens inside the bar after the decision
    foresight = np.append((closes[1:] > closes[:-1]).astype(float), 0.0)
    seen = run_backtest(panel(opens, closes), weights(foresight), config())
    late = run_backtest(panel(opens, closes), weights(np.append(0.0, foresight[:-1])), config())
    assert seen.equity_T[-1] > 5000.0
    assert late.equity_T[-1] < 200.0


def test_cutting_the_future_off_changes_nothing_of_the_past_to_the_bit():
    prices, rng = random_walk(60, 3), np.random.default_rng(1)
    target = rng.dirichlet(np.ones(4), 60)[:, :3]
    whole = run_backtest(prices, target, BacktestConfig())
    for bars in (2, 17, 41):
        head = BarPanel(
            open_TS=prices.open_TS[:bars],
            close_TS=prices.close_TS[:bars],
            time_T=prices.time_T[:bars],
            symbols=prices.symbols,
        )
        part = run_backtest(head, target[:bars], BacktestConfig())
        assert np.array_equal(part.equity_T, whole.equity_T[:bars])
        assert np.array_equal(part.positions_TS, whole.positions_TS[:bars])


# --- keeping, waiting, closing


def test_a_nan_weight_keeps_the_units_while_a_number_rebalances_them():
    prices = panel([100.0, 100.0, 200.0, 200.0])
    kept = run_backtest(prices, weights([0.5, NAN, NAN, NAN]), config())
    rebalanced = run_backtest(prices, weights([0.5, 0.5, 0.5, 0.5]), config())
    assert kept.positions_TS[-1, 0] == 5.0
    assert rebalanced.positions_TS[-1, 0] == pytest.approx(0.5 * 1500.0 / 200.0)


def test_an_order_waits_over_missing_bars_for_the_symbols_next_open():
    prices = panel([[100.0, 10.0], [NAN, 10.0], [NAN, 10.0], [90.0, 10.0]])
    result = run_backtest(prices, weights([[0.5, NAN], [NAN, NAN], [NAN, NAN], [NAN, NAN]]), config())
    assert result.positions_TS[:, 0].tolist() == [0.0, 0.0, 0.0, 5.0]
    assert result.trades["price"].to_list() == [90.0]


def test_a_later_decision_replaces_an_order_that_waits():
    prices = panel([[100.0, 10.0], [NAN, 10.0], [90.0, 10.0]])
    result = run_backtest(prices, weights([[0.5, NAN], [0.0, NAN], [NAN, NAN]]), config())
    assert result.trades.is_empty()


def test_a_position_without_a_bar_is_marked_at_its_last_close():
    prices = panel([[100.0, 10.0], [100.0, 10.0], [NAN, 10.0]], [[100.0, 10.0], [120.0, 10.0], [NAN, 10.0]])
    result = run_backtest(prices, weights([[0.5, NAN]] + [[NAN, NAN]] * 2), config())
    assert result.equity_T[-1] == result.equity_T[-2] == 1000.0 + 5.0 * 20.0


def test_changes_inside_the_band_do_not_trade_but_a_target_of_zero_always_closes():
    prices = panel([100.0] * 5)
    target = weights([0.10, 0.105, 0.12, 0.0, NAN])
    result = run_backtest(prices, target, config(rebalance_band=0.01))
    assert result.positions_TS[:, 0] == pytest.approx([0.0, 1.0, 1.0, 1.2, 0.0])
    fallen = panel([100.0, 100.0, 50.0, 50.0])
    shrunk = run_backtest(fallen, weights([0.03, NAN, 0.0, NAN]), config(rebalance_band=0.02))
    assert shrunk.positions_TS[:, 0] == pytest.approx([0.0, 0.3, 0.3, 0.0])


def test_holding_all_capital_at_constant_weight_one_trades_once_and_not_on_rounding_noise():
    prices = random_walk(300, 1)
    result = run_backtest(prices, np.ones((300, 1)), BacktestConfig())
    assert result.trades.height <= 2  # the second spends what a lower open left over
    assert run_backtest(prices, weights([1.0] + [NAN] * 299), BacktestConfig()).trades.height == 1


# --- shorts


def test_a_short_gains_what_a_long_loses():
    prices = panel([100.0, 100.0, 80.0])
    result = run_backtest(prices, weights([-0.5, NAN, NAN]), config(allow_short=True))
    assert result.positions_TS[1, 0] == -5.0
    assert result.equity_T[-1] == pytest.approx(1100.0)
    assert result.trades["side"].to_list() == ["sell"]


def test_a_ruined_account_closes_at_the_next_open_and_never_trades_again():
    prices = panel([100.0, 100.0, 300.0, 310.0, 50.0, 50.0])
    result = run_backtest(prices, weights([-1.0, NAN, -1.0, -1.0, 1.0, 1.0]), config(allow_short=True))
    assert result.equity_T[2] < 0.0
    assert result.positions_TS[:, 0].tolist() == [0.0, -10.0, -10.0, 0.0, 0.0, 0.0]
    assert result.trades.height == 2
    assert result.net_return_T[2] == pytest.approx(-2.0)
    assert np.isnan(result.net_return_T[3:]).all()


def test_ruin_is_final_even_if_the_price_comes_back_before_the_position_can_be_closed():
    prices = panel([100.0, 100.0, 300.0, NAN, 50.0, 50.0, 60.0])
    result = run_backtest(prices, weights([-1.0, NAN, NAN, NAN, 1.0, 1.0, NAN]), config(allow_short=True))
    assert result.equity_T[2:4] == pytest.approx([-1000.0, -1000.0])
    assert result.positions_TS[3:, 0].tolist() == [-10.0, 0.0, 0.0, 0.0]
    assert result.equity_T[4:] == pytest.approx([1500.0] * 3)
    assert np.isnan(result.net_return_T[3:]).all()
    assert np.isnan(result.turnover_T[3:]).all()


# --- invariants


@st.composite
def scenarios(draw: Callable[..., object], *, shorts: bool) -> tuple[BarPanel, np.ndarray, BacktestConfig]:
    """Random prices with gaps and missing bars, random weights with holes, random costs."""
    bars, width = draw(st.integers(2, 10)), draw(st.integers(1, 3))  # type: ignore[call-overload]
    cells = bars * width

    def grid(elements: st.SearchStrategy[object]) -> np.ndarray:
        return np.array(draw(st.lists(elements, min_size=cells, max_size=cells))).reshape(bars, width)

    close_TS = 100.0 * np.exp(np.cumsum(grid(st.floats(-0.4, 0.4)), axis=0))
    open_TS = np.vstack([np.full((1, width), 100.0), close_TS[:-1]]) * np.exp(grid(st.floats(-0.2, 0.2)))
    missing = grid(st.sampled_from([False, False, False, True])).astype(bool)
    missing[-1] &= ~missing[:-1].all(axis=0)  # every symbol has a bar somewhere
    open_TS[missing], close_TS[missing] = np.nan, np.nan
    target = grid(st.floats(-1.0 if shorts else 0.0, 1.0))
    target = target / np.maximum(np.abs(target).sum(axis=1, keepdims=True), 1.0)
    target[grid(st.sampled_from([False, False, True])).astype(bool)] = np.nan
    prices = panel(open_TS, close_TS)
    target[~prices.listed()] = np.nan
    costs = CostModel(
        **{name: draw(st.floats(0.0, 100.0)) for name in ("commission_bps", "slippage_bps", "spread_bps")},  # type: ignore[arg-type]
        borrow_bps_per_year=draw(st.floats(0.0, 5000.0)),  # type: ignore[arg-type]
    )
    band = draw(st.sampled_from([0.0, 0.05]))
    return prices, target, config(costs=costs, allow_short=shorts, rebalance_band=band)


@settings(max_examples=150, deadline=None)
@given(scenario=st.one_of(scenarios(shorts=False), scenarios(shorts=True)))
def test_every_order_and_the_equity_equal_the_reference(scenario: tuple[BarPanel, np.ndarray, BacktestConfig]):
    prices, target, settings_ = scenario
    result = run_backtest(prices, target, settings_)
    expected = reference_backtest(
        prices.symbols,
        prices.open_TS.tolist(),
        prices.close_TS.tolist(),
        target.tolist(),
        capital=1000.0,
        commission=settings_.costs.commission_rate,
        slippage=settings_.costs.slippage_rate,
        band=settings_.rebalance_band,
        borrow_per_bar=settings_.costs.borrow_rate_per_year / 365.0,
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


@settings(max_examples=100, deadline=None)
@given(scenario=st.one_of(scenarios(shorts=False), scenarios(shorts=True)))
def test_money_is_conserved(scenario: tuple[BarPanel, np.ndarray, BacktestConfig]):
    """Cash moves by fills, commissions and borrow fees only,
    and the equity is what prices earned on the positions, less all costs."""
    prices, target, settings_ = scenario
    result = run_backtest(prices, target, settings_)
    trades = result.trades
    sign = np.where(trades["side"].to_numpy() == "buy", 1.0, -1.0)
    scale = 1000.0 + trades["notional"].sum()
    spent = (sign * trades["notional"].to_numpy()).sum() + trades["commission"].sum() + result.borrow_T.sum()
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
    costs = trades["commission"].sum() + trades["slippage_cost"].sum() + result.borrow_T.sum()
    assert result.equity_T[-1] == pytest.approx(1000.0 + overnight + intraday - costs, abs=1e-9 * scale)


@settings(max_examples=100, deadline=None)
@given(scenario=scenarios(shorts=False))
def test_a_long_only_account_never_owes_money(scenario: tuple[BarPanel, np.ndarray, BacktestConfig]):
    result = run_backtest(*scenario)
    assert (result.cash_T >= -1e-9 * 1000.0).all()
    assert (result.equity_T >= 0.0).all()
    assert (result.positions_TS >= 0.0).all()


@settings(max_examples=60, deadline=None)
@given(scenario=scenarios(shorts=True), data=st.data())
def test_the_order_of_symbols_does_not_matter(
    scenario: tuple[BarPanel, np.ndarray, BacktestConfig], data: st.DataObject
):
    prices, target, settings_ = scenario
    order = data.draw(st.permutations(range(len(prices.symbols))))
    shuffled = panel(prices.open_TS[:, order], prices.close_TS[:, order], tuple(prices.symbols[s] for s in order))
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


# --- tables


def test_curve_and_positions_are_tables_in_utc():
    prices = random_walk(10, 2)
    result = run_backtest(prices, np.full((10, 2), 0.5), BacktestConfig())
    curve, positions = result.curve(), result.positions()
    assert curve.columns == [
        "timestamp",
        "equity",
        "cash",
        "net_return",
        "gross_return",
        "drawdown",
        "turnover",
        "exposure",
        "trades",
        "borrow",
    ]
    assert curve.schema["timestamp"] == positions.schema["timestamp"] == pl.Datetime("us", "UTC")
    assert curve["trades"].sum() == result.trades.height
    assert positions.height == 20
    last = positions.filter(pl.col("timestamp") == curve["timestamp"][-1])
    assert last["value"].sum() + curve["cash"][-1] == pytest.approx(curve["equity"][-1])
    assert last["weight"].sum() == pytest.approx(curve["exposure"][-1])
    assert last["symbol"].to_list() == ["A", "B"]


# --- bad input, one clear error each


@pytest.mark.parametrize("bad", [0.0, -5.0, math.inf])
def test_prices_that_are_not_positive_and_finite(bad: float):
    with pytest.raises(BacktestError, match=r"open price .* of A at 2020-01-02.*positive and finite"):
        panel([100.0, bad, 100.0], [100.0, 100.0, 100.0])


def test_half_a_bar():
    with pytest.raises(BacktestError, match="a bar has both prices"):
        panel([100.0, NAN, 100.0], [100.0, 100.0, 100.0])


def test_a_symbol_without_any_bar():
    with pytest.raises(BacktestError, match="B has no bar"):
        panel([[1.0, NAN], [1.0, NAN]])


def test_a_series_of_one_bar():
    with pytest.raises(BacktestError, match=r"over 1 bar\(s\) cannot trade"):
        panel([100.0])


@pytest.mark.parametrize("swap", [[1, 0, 2], [0, 0, 2]])
def test_times_that_do_not_rise(swap: list[int]):
    with pytest.raises(BacktestError, match="times must rise strictly: bar 1 at"):
        BarPanel(open_TS=np.ones((3, 1)), close_TS=np.ones((3, 1)), time_T=days(3)[swap], symbols=("A",))


def test_prices_of_another_shape_than_their_times():
    with pytest.raises(BacktestError, match=r"open_TS has shape \(3, 1\), but there are 2 times"):
        BarPanel(open_TS=np.ones((3, 1)), close_TS=np.ones((2, 1)), time_T=days(2), symbols=("A",))


def test_a_symbol_listed_twice():
    with pytest.raises(BacktestError, match="distinct"):
        panel([[1.0, 1.0], [1.0, 1.0]], symbols=("A", "A"))


def test_weights_longer_than_the_prices():
    with pytest.raises(BacktestError, match=r"strategy: target weights have shape \(3, 1\) but prices have \(2, 1\)"):
        run_backtest(panel([1.0, 1.0]), np.ones((3, 1)), config())


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([math.inf, 0.0], "infinite"),
        ([0.7, 0.7], "more than the whole capital"),
        ([-0.5, 0.5], "go short on a long-only account"),
    ],
)
def test_weights_no_account_can_hold_are_named_with_their_bar(row: list[float], why: str):
    with pytest.raises(BacktestError, match=rf"strategy: weights at 2020-01-02.*{why}"):
        run_backtest(panel([[1.0, 1.0]] * 3), weights([[0.0, 0.0], row, [0.0, 0.0]]), config())


def test_thirds_that_round_above_one_are_no_leverage():
    third = weights([[1 / 3 + 1e-12] * 3] * 2)
    assert run_backtest(panel([[1.0] * 3] * 2), third, config()).trades.height == 3


def test_a_weight_before_the_symbols_first_bar():
    prices = panel([[1.0, NAN], [1.0, 1.0]])
    with pytest.raises(BacktestError, match=r"B 0\.5.*before its first bar"):
        run_backtest(prices, weights([[0.0, 0.5], [0.0, 0.0]]), config())


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"initial_capital": 0.0}, "initial_capital"),
        ({"initial_capital": NAN}, "initial_capital"),
        ({"rebalance_band": -0.1}, "rebalance_band"),
        ({"rebalance_band": 1.0}, "rebalance_band"),
    ],
)
def test_a_backtest_config_out_of_range_names_its_key(options: dict[str, float], key: str):
    with pytest.raises(ConfigError, match=rf"backtest\.{key}="):
        BacktestConfig(**options)  # type: ignore[arg-type]


# --- panels from bars


def bars(rows: list[tuple[str, int, float, float]]) -> pl.DataFrame:
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    return pl.DataFrame(
        [(symbol, start + dt.timedelta(days=day), o, c) for symbol, day, o, c in rows],
        schema={"symbol": pl.String, "timestamp": pl.Datetime("us", "UTC"), "open": pl.Float64, "close": pl.Float64},
        orient="row",
    )


def test_bars_are_laid_on_the_union_of_their_times_with_holes_left_open():
    made = BarPanel.from_bars(bars([("B", 2, 5.0, 6.0), ("A", 0, 1.0, 2.0), ("A", 2, 3.0, 4.0), ("B", 1, 7.0, 8.0)]))
    assert made.symbols == ("A", "B")
    assert np.array_equal(made.open_TS, [[1.0, NAN], [NAN, 7.0], [3.0, 5.0]], equal_nan=True)
    assert np.array_equal(made.close_TS, [[2.0, NAN], [NAN, 8.0], [4.0, 6.0]], equal_nan=True)
    assert made.time_T.tolist() == days(3).tolist()
    assert made.listed().tolist() == [[True, False], [True, True], [True, True]]


def test_the_symbols_asked_for_decide_the_columns():
    table = bars([("A", 0, 1.0, 2.0), ("A", 1, 1.0, 2.0), ("B", 0, 3.0, 4.0), ("B", 1, 3.0, 4.0)])
    assert BarPanel.from_bars(table, symbols=["B"]).open_TS.tolist() == [[3.0], [3.0]]
    with pytest.raises(BacktestError, match="no bars for C; there are bars for A, B"):
        BarPanel.from_bars(table, symbols=["A", "C"])


def test_two_bars_at_one_time():
    with pytest.raises(BacktestError, match="A has two bars at 2020-01-01"):
        BarPanel.from_bars(bars([("A", 0, 1.0, 1.0), ("A", 0, 1.0, 1.0), ("A", 1, 1.0, 1.0)]))


def test_bars_without_a_close():
    with pytest.raises(SchemaError, match="no column 'close'"):
        BarPanel.from_bars(bars([("A", 0, 1.0, 1.0)]).drop("close"))


# --- from forecasts to weights


def predictions(rows: list[tuple[str, int, float | None, float | None]]) -> pl.DataFrame:
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    return pl.DataFrame(
        [(symbol, start + dt.timedelta(days=day), expected, position) for symbol, day, expected, position in rows],
        schema={
            "symbol": pl.String,
            "timestamp": pl.Datetime("us", "UTC"),
            "expected_return": pl.Float64,
            "position": pl.Float64,
        },
        orient="row",
    )


def same(got: np.ndarray, wanted: object) -> bool:
    return np.array_equal(got, np.array(wanted, dtype=np.float64), equal_nan=True)


def test_forecasts_beyond_the_threshold_take_an_equal_share():
    rows = predictions([("A", 0, 0.002, None), ("B", 0, 0.0005, None), ("A", 1, -0.002, None), ("B", 1, -0.0005, None)])
    prices = panel([[1.0, 1.0]] * 3)
    flat = PositionPolicy(mode="long_flat", threshold_bps=10.0, rebalance="every_bar")
    short = PositionPolicy(mode="long_short", threshold_bps=10.0, rebalance="every_bar")
    assert same(flat.target_weights(rows, prices), [[0.5, 0.0], [0.0, 0.0], [NAN, NAN]])
    assert same(short.target_weights(rows, prices), [[0.5, 0.0], [-0.5, 0.0], [NAN, NAN]])


def test_a_forecast_exactly_at_the_threshold_stays_flat():
    prices = panel([1.0, 1.0])
    rows = predictions([("A", 0, 0.0, None), ("A", 1, 0.5, None)])
    assert same(PositionPolicy().target_weights(rows, prices), [[0.0], [1.0]])
    rows = predictions([("A", 0, 10.0 * BPS, None), ("A", 1, 10.0 * BPS + 1e-9, None)])
    assert same(PositionPolicy(threshold_bps=10.0).target_weights(rows, prices), [[0.0], [1.0]])


def test_a_rule_models_position_is_taken_as_it_is_and_shorts_are_flat_under_long_flat():
    rows = predictions([("A", 0, None, 0.4), ("A", 1, 0.9, -1.0)])
    prices = panel([1.0, 1.0])
    assert same(PositionPolicy(mode="long_short").target_weights(rows, prices), [[0.4], [-1.0]])
    assert same(PositionPolicy(mode="long_flat").target_weights(rows, prices), [[0.4], [0.0]])


def test_the_share_is_of_the_symbols_listed_so_far():
    prices = panel([[1.0, NAN], [1.0, 1.0]])
    rows = predictions([("A", 0, None, 1.0), ("A", 1, None, 1.0), ("B", 1, None, 1.0)])
    assert same(PositionPolicy().target_weights(rows, prices), [[1.0, NAN], [0.5, 0.5]])


def test_on_change_decides_only_what_is_new_so_that_buy_and_hold_trades_once():
    prices = random_walk(50, 2, drift=0.001)
    rows = predictions([(s, t, None, 1.0) for t in range(50) for s in ("A", "B")])
    held = run_backtest(prices, PositionPolicy().target_weights(rows, prices), BacktestConfig())
    drifted = PositionPolicy(rebalance="every_bar").target_weights(rows, prices)
    assert held.trades.height == 2
    assert run_backtest(prices, drifted, BacktestConfig()).trades.height > 50


def test_a_decision_is_held_for_its_horizon_by_averaging_the_last_ones():
    signs = [1, 1, -1, -1, 1]
    rows = predictions([("A", t, 0.01 * sign, None) for t, sign in enumerate(signs)])
    policy = PositionPolicy(mode="long_short", horizon_bars=2, rebalance="every_bar")
    assert same(policy.target_weights(rows, panel([1.0] * 5)), [[0.5], [1.0], [0.0], [-1.0], [0.0]])


def test_rows_that_say_nothing_decide_nothing():
    rows = predictions([("A", 0, 0.01, None), ("A", 1, NAN, None), ("A", 2, None, None)])
    assert same(PositionPolicy().target_weights(rows, panel([1.0] * 4)), [[1.0], [NAN], [NAN], [NAN]])


def test_long_short_weights_on_a_long_only_account_are_refused():
    prices = panel([1.0, 1.0])
    short = PositionPolicy(mode="long_short").target_weights(predictions([("A", 0, -0.1, None)]), prices)
    with pytest.raises(BacktestError, match="long-only"):
        run_backtest(prices, short, config())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("A", 0, 0.1, None), ("A", 0, 0.1, None)], "two predictions for A at 2020-01-01"),
        ([("Z", 0, 0.1, None)], "predictions for Z, but there are prices for A only"),
        ([("A", 9, 0.1, None)], "1 predictions have no bar at their time, first 2020-01-10"),
        ([("A", 0, None, 1.5)], r"position 1\.5 of A at 2020-01-01.*beyond its whole share"),
    ],
)
def test_predictions_that_do_not_fit_the_prices(rows: list[tuple[str, int, float | None, float | None]], message: str):
    with pytest.raises(BacktestError, match=message):
        PositionPolicy().target_weights(predictions(rows), panel([1.0, 1.0]))


def test_predictions_without_a_column():
    with pytest.raises(SchemaError, match="no column 'position'"):
        PositionPolicy().target_weights(predictions([]).drop("position"), panel([1.0, 1.0]))


@pytest.mark.parametrize(
    ("options", "key"), [({"threshold_bps": -1.0}, "threshold_bps"), ({"horizon_bars": 0}, "horizon_bars")]
)
def test_a_policy_out_of_range_names_its_key(options: dict[str, float], key: str):
    with pytest.raises(ConfigError, match=rf"policy\.{key}="):
        PositionPolicy(**options)  # type: ignore[arg-type]
