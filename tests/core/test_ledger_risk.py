"""Stops, limits and halts close and cut what the rules say, by hand and against a slow reference, and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.backtest import BacktestConfig, BacktestResult, BarPanel, run_backtest, run_signals
from quantfleet.errors import BacktestError, ConfigError
from quantfleet.ledger import RiskRules, risk_kernel

from .backtest_support import NAN, config, panel, random_walk, scenarios, weights


def traded(prices: BarPanel, target: object, **rules: float) -> BacktestResult:
    options = {"allow_short": True, "leverage": 2.0}
    return run_backtest(prices, weights(target), config(risk=RiskRules(**rules), **options))  # type: ignore[arg-type]


def held(result: BacktestResult) -> list[float]:
    return result.positions_TS[:, 0].tolist()


# --- stops


def test_a_stop_loss_closes_at_the_next_open_after_the_close_that_hit_it():
    """Bought at 100; 10 % are lost at 90, and the next open is 80."""
    prices = panel([100.0, 100.0, 100.0, 80.0, 80.0], [100.0, 91.0, 90.0, 80.0, 80.0])
    result = traded(prices, [0.5, NAN, NAN, NAN, NAN], stop_loss=0.1)
    assert held(result) == [0.0, 5.0, 5.0, 0.0, 0.0]
    assert result.stops_T.tolist() == [0, 0, 1, 0, 0]
    assert result.equity_T[-1] == pytest.approx(1000.0 - 5.0 * 20.0)
    assert result.curve()["stops"].sum() == 1


def test_a_stop_loss_measures_from_the_average_entry():
    """5 at 100, then 5 more at 120: entry 110; 99 is 10 % below."""
    prices = panel([100.0, 100.0, 120.0, 100.0, 99.0, 99.0])
    result = traded(prices, [0.5, 0.5 * 2 * 100 / 1000, NAN, NAN, NAN, NAN], stop_loss=0.1)
    assert result.stops_T.sum() == 0
    entry_S, best_S = np.array([100.0]), np.array([100.0])
    risk_kernel.track_entries(np.array([10.0]), np.array([5.0]), np.array([120.0]), entry_S, best_S)
    assert (entry_S[0], best_S[0]) == (110.0, 100.0)
    risk_kernel.track_entries(np.array([4.0]), np.array([-6.0]), np.array([150.0]), entry_S, best_S)
    assert entry_S[0] == 110.0
    risk_kernel.track_entries(np.array([-2.0]), np.array([-6.0]), np.array([150.0]), entry_S, best_S)
    assert entry_S[0] == 150.0
    risk_kernel.track_entries(np.array([0.0]), np.array([2.0]), np.array([150.0]), entry_S, best_S)
    assert entry_S[0] == 0.0


def test_a_short_is_stopped_when_the_price_rises():
    prices = panel([100.0, 100.0, 105.0, 110.0, 120.0])
    result = traded(prices, [-0.5, NAN, NAN, NAN, NAN], stop_loss=0.1)
    assert held(result) == [0.0, -5.0, -5.0, -5.0, 0.0]


def test_a_profit_is_taken():
    prices = panel([100.0, 100.0, 119.0, 120.0, 130.0])
    result = traded(prices, [0.5, NAN, NAN, NAN, NAN], take_profit=0.2)
    assert held(result) == [0.0, 5.0, 5.0, 5.0, 0.0]


def test_a_trailing_stop_measures_from_the_best_close():
    """Best close 150: 10 % back is 135."""
    prices = panel([100.0, 100.0, 150.0, 136.0, 135.0, 135.0])
    result = traded(prices, [0.5] + [NAN] * 5, trailing_stop=0.1)
    assert held(result) == [0.0, 5.0, 5.0, 5.0, 5.0, 0.0]


def test_a_stopped_symbol_stays_shut_until_the_strategy_leaves_it_or_turns():
    prices = panel([100.0, 100.0, 80.0, 80.0, 80.0, 80.0, 80.0, 80.0])
    again = traded(prices, [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], stop_loss=0.1)
    assert held(again) == [0.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    left = traded(prices, [0.5, 0.5, 0.5, 0.5, 0.0, 0.5, NAN, NAN], stop_loss=0.1)
    assert held(left)[:6] == [0.0, 5.0, 5.0, 0.0, 0.0, 0.0]
    assert held(left)[6] > 0.0
    turned = traded(prices, [0.5, 0.5, -0.5, NAN, NAN, NAN, NAN, NAN], stop_loss=0.1)
    assert held(turned)[3] < 0.0


# --- weights


def test_positions_gross_and_net_are_cut_to_their_limits():
    flat = panel([[10.0, 10.0, 10.0]] * 2)
    row = [[0.6, 0.5, -0.3], [NAN, NAN, NAN]]
    assert shaped(flat, row, max_position=0.4) == pytest.approx([0.4, 0.4, -0.3])
    assert shaped(flat, row, max_gross=0.7) == pytest.approx([0.3, 0.25, -0.15])
    assert shaped(flat, row, max_net=0.3) == pytest.approx([0.6 * 6 / 11, 0.5 * 6 / 11, -0.3])
    assert shaped(flat, [[-0.6, -0.5, 0.3], [NAN] * 3], max_net=0.3) == pytest.approx(
        [-0.6 * 6 / 11, -0.5 * 6 / 11, 0.3]
    )


def shaped(prices: BarPanel, rows: object, **rules: float) -> list[float]:
    """Weights held after the first decision."""
    result = traded(prices, rows, **rules)
    return (result.value_TS[-1] / 1000.0).tolist()


def test_what_a_row_does_not_decide_counts_and_is_left_alone():
    prices = panel([[10.0, 10.0]] * 4)
    result = traded(prices, [[0.5, NAN], [NAN, NAN], [NAN, 0.8], [NAN, NAN]], max_gross=1.0)
    assert result.value_TS[-1] == pytest.approx([500.0, 500.0])


def test_symbols_that_move_together_share_one_position():
    """A and B rise and fall together, C on its own, D against them: A with B, and D on the other side belongs to them too."""
    rng = np.random.default_rng(0)
    a, c = rng.normal(0.0, 0.01, (2, 61))
    closes = 100.0 * np.exp(np.cumsum(np.column_stack([a, a, c, -a]), axis=0))
    rows = np.full((61, 4), NAN)
    rows[-1] = [0.3, 0.1, 0.2, 0.2]
    limits = RiskRules(max_position=0.3, max_correlation=0.8, window_bars=60).limits()
    row = rows[-1].copy()
    risk_kernel.shape_weights(row, np.zeros(4), closes, 2.0, limits)
    assert row == pytest.approx([0.3 * 0.75, 0.1 * 0.75, 0.2, 0.2])
    hedged = np.array([0.3, 0.0, 0.0, -0.3])
    risk_kernel.shape_weights(hedged, np.zeros(4), closes, 2.0, limits)
    assert hedged == pytest.approx([0.15, 0.0, 0.0, -0.15])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1000), cap=st.floats(0.05, 0.5), most=st.floats(0.1, 0.9))
def test_no_group_of_correlated_symbols_is_larger_than_a_position(seed: int, cap: float, most: float):
    rng = np.random.default_rng(seed)
    common = rng.normal(0.0, 0.01, (30, 1))
    returns = common * rng.choice([-1.0, 1.0, 0.5], 5) + rng.normal(0.0, 0.007, (30, 5))
    closes = 100.0 * np.exp(np.cumsum(returns, axis=0))
    row = rng.uniform(-0.4, 0.4, 5)
    before = row.copy()
    limits = RiskRules(max_position=cap, max_correlation=most, window_bars=29).limits()
    risk_kernel.shape_weights(row, np.zeros(5), closes, 5.0, limits)
    correlation = np.corrcoef((closes[1:] / closes[:-1] - 1.0).T)
    for i in range(5):
        together = (np.sign(before[i] * before) * correlation[i] > most) | (np.arange(5) == i)
        assert np.abs(row[together]).sum() <= cap + 1e-9
    order = rng.permutation(5)
    shuffled = before[order].copy()
    risk_kernel.shape_weights(shuffled, np.zeros(5), np.ascontiguousarray(closes[:, order]), 5.0, limits)
    assert shuffled == pytest.approx(row[order], rel=1e-9)


def test_a_volatility_target_scales_the_row_by_what_the_portfolio_would_have_moved():
    prices = random_walk(40, 2, seed=1)
    closes = prices.close_TS
    row = np.array([0.4, 0.2])
    limits = RiskRules(target_volatility=0.1, window_bars=39, bars_per_year=252).limits()
    portfolio = (closes[1:] / closes[:-1] - 1.0) @ row
    shaped_row = row.copy()
    risk_kernel.shape_weights(shaped_row, np.zeros(2), closes, 10.0, limits)
    assert shaped_row == pytest.approx(row * 0.1 / (portfolio.std(ddof=1) * math.sqrt(252)))
    assert ((closes[1:] / closes[:-1] - 1.0) @ shaped_row).std(ddof=1) * math.sqrt(252) == pytest.approx(0.1)


def test_before_the_window_is_full_nothing_is_opened_and_scaling_stays_within_the_leverage():
    prices = random_walk(30, 1, seed=2)
    result = traded(prices, np.full(30, 0.1), target_volatility=5.0, window_bars=10)
    assert held(result)[:11] == [0.0] * 11
    assert held(result)[11] != 0.0
    assert result.exposure_T[11:] == pytest.approx(2.0, rel=0.05)


def test_half_kelly_is_half_of_mean_over_variance_and_nothing_where_the_portfolio_lost():
    closes = random_walk(60, 2, seed=3, drift=0.004).close_TS
    row = np.array([0.05, 0.02])
    portfolio = (closes[1:] / closes[:-1] - 1.0) @ row
    limits = RiskRules(kelly_fraction=0.5, window_bars=59).limits()
    shaped_row = row.copy()
    risk_kernel.shape_weights(shaped_row, np.zeros(2), closes, 1e9, limits)
    assert shaped_row == pytest.approx(row * 0.5 * portfolio.mean() / portfolio.var(ddof=1))
    losing = -row
    risk_kernel.shape_weights(losing, np.zeros(2), closes, 1e9, limits)
    assert losing.tolist() == [0.0, 0.0]


# --- the account


def hours(prices: BarPanel, count: int) -> BarPanel:
    times = np.datetime64("2020-01-01T22", "us") + np.arange(count) * np.timedelta64(1, "h")
    return BarPanel(open_TS=prices.open_TS, close_TS=prices.close_TS, time_T=times, symbols=prices.symbols)


def test_a_day_that_lost_too_much_closes_everything_until_the_next():
    """22, 23, 0, 1, 2 ... o'clock. From 1000 at 23 o'clock: 940 at 1 o'clock is a loss of 6 %."""
    opens = [100.0, 100.0, 100.0, 94.0, 90.0, 90.0]
    prices = hours(panel(opens), 6)
    result = traded(prices, [1.0, NAN, NAN, 1.0, 1.0, 1.0], max_daily_loss=0.05)
    assert held(result) == [0.0, 10.0, 10.0, 10.0, 0.0, 0.0]
    assert result.halted_T.tolist() == [0, 0, 0, 1, 1, 1]
    days_long = traded(panel(opens), [1.0, NAN, NAN, 1.0, 1.0, NAN], max_daily_loss=0.05)
    assert days_long.halted_T.tolist() == [0, 0, 0, 1, 0, 0]
    assert held(days_long)[5] > 0.0


def test_a_drawdown_closes_everything_for_good():
    prices = panel([100.0, 100.0, 120.0, 96.0, 96.0, 200.0, 200.0])
    result = traded(prices, [1.0, NAN, NAN, 1.0, 1.0, 1.0, 1.0], max_drawdown=0.2)
    assert held(result) == [0.0, 10.0, 10.0, 10.0, 0.0, 0.0, 0.0]
    assert result.halted_T.tolist() == [0, 0, 0, 2, 2, 2, 2]


# --- properties


@settings(max_examples=150, deadline=None)
@given(scenario=scenarios(shorts=True), limits=st.tuples(*[st.floats(0.05, 0.6)] * 3))
def test_whatever_is_decided_stays_within_the_limits(scenario: tuple, limits: tuple[float, ...]):
    prices, target, _ = scenario
    rules = RiskRules(max_position=limits[0], max_gross=limits[1], max_net=limits[2])
    decided = target[:1]
    row = decided[0].copy()
    risk_kernel.shape_weights(row, np.zeros(len(row)), prices.marks_TS[:0], 1.0, rules.limits())
    known = np.nan_to_num(row)
    assert np.abs(known).max() <= limits[0] + 1e-12
    assert np.abs(known).sum() <= limits[1] + 1e-12
    assert abs(known.sum()) <= limits[2] + 1e-12
    assert np.array_equal(np.isnan(row), np.isnan(decided[0]))
    assert (known * np.nan_to_num(decided[0]) >= 0.0).all()


@settings(max_examples=50, deadline=None)
@given(scenario=scenarios(shorts=False, everything=True))
def test_rules_that_are_never_reached_change_nothing(scenario: tuple[BarPanel, np.ndarray, BacktestConfig]):
    prices, target, options = scenario
    far = RiskRules(
        stop_loss=0.9999, take_profit=1e9, max_position=1e3, max_gross=1e3, max_net=1e3, max_drawdown=0.9999999
    )
    plain = run_backtest(prices, target, options)
    ruled = run_backtest(
        prices,
        target,
        BacktestConfig(
            **{name: getattr(options, name) for name in options.__slots__ if name != "risk"},  # type: ignore[arg-type]
            risk=far,
        ),
    )
    assert ruled.equity_T == pytest.approx(plain.equity_T, rel=1e-9)
    assert ruled.trades.height == plain.trades.height


def reference_stops(prices: BarPanel, target_T: np.ndarray, rules: RiskRules) -> list[float]:
    """Units at each close of an account without costs on one symbol, told bar by bar in plain Python."""
    cash, units, entry, best, shut = 1000.0, 0.0, 0.0, 0.0, 0
    waiting: float | None = None
    history = []
    for t in range(len(target_T)):
        if waiting is not None:
            price, order = prices.open_TS[t, 0], waiting - units
            waiting = None
            if abs(order) * price >= 1e-9 * (cash + units * price) or units + order == 0.0:
                room = cash - 2.0 * max(-units, 0.0) * price if units * order >= 0.0 else math.inf
                order = math.copysign(min(abs(order), max(room, 0.0) / price), order)
                if units + order == 0.0:
                    entry = best = 0.0
                elif abs(units + order) > abs(units):
                    entry = (units * entry + order * price) / (units + order)
                    best = price if units == 0.0 else best
                cash -= order * price
                units += order
        close = prices.close_TS[t, 0]
        history.append(units)
        if units:
            side = math.copysign(1.0, units)
            best = max(best, close) if units > 0 else min(best, close)
            lost, back = -side * (close / entry - 1.0), side * (1.0 - close / best)
            if lost >= rules.stop_loss or -lost >= rules.take_profit or back >= rules.trailing_stop:
                shut = int(side)
        wanted = target_T[t]
        if shut and (math.isnan(wanted) or wanted * shut > 0.0):
            waiting = 0.0 if units else None
        elif not math.isnan(wanted):
            shut = 0
            waiting = wanted * (cash + units * close) / close
    return history


@settings(max_examples=200, deadline=None)
@given(
    moves=st.lists(st.floats(-0.1, 0.1), min_size=3, max_size=25),
    seed=st.integers(0, 10_000),
    shares=st.tuples(st.floats(0.02, 0.2), st.floats(0.02, 0.3), st.floats(0.02, 0.2)),
)
def test_stops_equal_a_slow_reference(moves: list[float], seed: int, shares: tuple[float, ...]):
    rng, close = np.random.default_rng(seed), 100.0 * np.exp(np.cumsum(moves))
    prices = panel(close * np.exp(rng.normal(0.0, 0.01, len(close))), close)
    target = rng.choice([NAN, 0.0, 0.2, 0.4], len(close), p=[0.5, 0.1, 0.2, 0.2])  # one side: no turn in one order
    rules = RiskRules(stop_loss=shares[0], take_profit=shares[1], trailing_stop=shares[2])
    result = run_backtest(prices, weights(target), config(risk=rules))
    assert result.positions_TS[:, 0] == pytest.approx(reference_stops(prices, target, rules), rel=1e-9, abs=1e-9)


# --- bad input


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        ({"stop_loss": 0.0}, "stop_loss"),
        ({"stop_loss": 1.0}, "stop_loss"),
        ({"take_profit": -0.1}, "take_profit"),
        ({"max_gross": math.inf}, "max_gross"),
        ({"max_drawdown": 20.0}, "max_drawdown"),
        ({"kelly_fraction": NAN}, "kelly_fraction"),
        ({"window_bars": 1}, "window_bars"),
        ({"bars_per_year": 0.0}, "bars_per_year"),
        ({"max_correlation": 0.5}, "max_correlation"),
    ],
)
def test_a_rule_that_limits_nothing_names_its_key(rules: dict[str, float], key: str):
    with pytest.raises(ConfigError, match=rf"backtest\.risk\.{key}="):
        RiskRules(**rules)  # type: ignore[arg-type]


def test_signals_refuse_risk_rules():
    flags = np.zeros(2, dtype=bool)
    with pytest.raises(BacktestError, match=r"a rule in backtest\.risk"):
        run_signals(panel([1.0, 1.0]), flags, flags, config(risk=RiskRules(stop_loss=0.1)))
