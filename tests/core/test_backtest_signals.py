"""Entries and exits are filled at the next open there is, with money that is there; many portfolios equal each alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet import evaluation
from quantfleet.backtest import BacktestConfig, BarPanel, run_signals, signals
from quantfleet.errors import BacktestError
from quantfleet.ledger import CostModel

from .backtest_support import NAN, config, panel, random_walk
from .reference_account import ReferenceAccount, ReferenceFill

TEN_BPS = CostModel(commission_bps=10.0, slippage_bps=10.0)


def at(bars: int, *places: int) -> np.ndarray:
    flags = np.zeros(bars, dtype=bool)
    flags[list(places)] = True
    return flags


def test_one_round_trip_by_hand():
    """1000 of capital. Entry at the close of bar 0: at the open of bar 1, 20, a unit takes 20 x 1.001 x 1.001 = 20.04002, so
    1000 buys 49.900149800. Exit at the close of bar 2: at the open of bar 3, 25, a unit brings 25 x 0.999 x 0.999 = 24.950025.
    """
    prices = panel([10.0, 20.0, 22.0, 25.0], [19.0, 21.0, 24.0, 26.0])
    result = run_signals(prices, at(4, 0), at(4, 2), config(costs=TEN_BPS)).result()
    bought = 1000.0 / 20.04002
    assert result.positions_TS[:, 0] == pytest.approx([0.0, bought, bought, 0.0])
    assert result.cash_T == pytest.approx([1000.0, 0.0, 0.0, bought * 24.950025], abs=1e-9)
    assert result.equity_T == pytest.approx([1000.0, bought * 21.0, bought * 24.0, bought * 24.950025])
    assert result.trades["side"].to_list() == ["buy", "sell"]
    assert result.trades["timestamp"].dt.day().to_list() == [2, 4]
    assert result.trades["price"].to_list() == pytest.approx([20.02, 24.975])


def test_a_part_of_the_capital_is_spent_costs_included():
    result = run_signals(panel([10.0, 20.0]), at(2, 0), at(2), config(costs=TEN_BPS), part=0.25).result()
    assert result.cash_T[1] == pytest.approx(750.0)


def test_entries_while_invested_exits_while_flat_and_both_at_once_decide_nothing():
    runs = run_signals(panel([10.0] * 8), at(8, 1, 2, 4, 6), at(8, 0, 4, 5, 6), config())
    assert runs.bar_N.tolist() == [2, 6]


def test_a_signal_on_the_last_bar_is_never_filled():
    assert run_signals(panel([10.0] * 3), at(3, 2), at(3), config()).orders_P.tolist() == [0]


def test_an_order_waits_over_missing_bars_unless_the_opposite_signal_comes_first():
    prices = panel([[10.0], [NAN], [NAN], [12.0], [12.0]])
    assert run_signals(prices, at(5, 0), at(5), config()).bar_N.tolist() == [3]
    assert run_signals(prices, at(5, 0), at(5, 1), config()).bar_N.tolist() == []
    assert run_signals(prices, at(5, 0, 2), at(5, 1), config()).bar_N.tolist() == [3]


def test_signals_are_found_wherever_they_lie_in_long_rows():
    for bars in (63, 64, 65, 127, 200):
        for place in (0, 1, 62, 63, 64, bars - 3):
            if place < bars - 2:
                runs = run_signals(panel([10.0] * bars), at(bars, place), at(bars, bars - 2), config())
                assert runs.bar_N.tolist() == [place + 1, bars - 1], (bars, place)


def reference(prices: BarPanel, entries_T: np.ndarray, exits_T: np.ndarray, costs: CostModel) -> tuple[list, list]:
    """Bar by bar, on the slow account: what waits is "buy for all" or "sell all"."""
    account = ReferenceAccount(1000.0, costs.commission_rate, costs.slippage_rate)
    waiting: str | None = None
    fills: list[tuple[int, ReferenceFill]] = []
    equity = []
    for t in range(len(entries_T)):
        price = prices.open_TS[t, 0]
        if waiting and not math.isnan(price):
            held = account.units.get("A", 0.0)
            order = -held if waiting == "sell" else account.cash / price  # more than there is money for: scaled down
            fills += [(t, fill) for fill in account.fill({"A": order}, {"A": price})]
            waiting = None
        if not math.isnan(prices.close_TS[t, 0]):
            account.mark({"A": prices.close_TS[t, 0]})
        equity.append(account.equity())
        if entries_T[t] != exits_T[t]:
            wanted = "buy" if entries_T[t] else "sell"
            invested = account.units.get("A", 0.0) > 0.0
            waiting = wanted if (wanted == "buy") != invested else None
    return fills, equity


@settings(max_examples=150, deadline=None)
@given(
    moves=st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=40),
    seed=st.integers(0, 10_000),
    costs=st.builds(CostModel, commission_bps=st.floats(0.0, 100.0), slippage_bps=st.floats(0.0, 100.0)),
)
def test_every_order_the_equity_and_the_metrics_equal_the_reference(moves: list[float], seed: int, costs: CostModel):
    rng, bars = np.random.default_rng(seed), len(moves)
    close = 100.0 * np.exp(np.cumsum(moves))
    opened = close * np.exp(rng.normal(0.0, 0.02, bars))
    missing = rng.random(bars) < 0.2
    missing[0] = False
    close[missing], opened[missing] = NAN, NAN
    entries_T, exits_T = rng.random(bars) < 0.3, rng.random(bars) < 0.3
    prices = panel(opened, close)
    fills, equity = reference(prices, entries_T, exits_T, costs)
    runs = run_signals(prices, entries_T, exits_T, config(costs=costs))
    result = runs.result()
    assert runs.bar_N.tolist() == [t for t, _ in fills]
    assert result.orders.units_N == pytest.approx([fill.units for _, fill in fills], rel=1e-9)
    assert result.price_N == pytest.approx([fill.price for _, fill in fills], rel=1e-12)
    assert result.commission_N == pytest.approx([fill.commission for _, fill in fills], rel=1e-9)
    assert result.equity_T == pytest.approx(equity, rel=1e-9)
    metrics = runs.metrics(bars_per_year=252)
    assert metrics.total_return_P[0] == pytest.approx(evaluation.total_return(result.net_return_T), rel=1e-9, abs=1e-12)
    wanted = evaluation.sharpe(result.net_return_T, bars_per_year=252)
    assert metrics.sharpe_P[0] == pytest.approx(wanted, rel=1e-6, abs=1e-9, nan_ok=True)
    assert metrics.max_drawdown_P[0] == pytest.approx(evaluation.max_drawdown(result.net_return_T), rel=1e-9, abs=1e-12)


def test_many_portfolios_on_several_symbols_equal_each_alone_in_threads_and_with_a_log_that_overflows(
    monkeypatch: pytest.MonkeyPatch,
):
    prices, rng = random_walk(300, 3), np.random.default_rng(1)
    entries_PT, exits_PT = rng.random((7, 300)) < 0.2, rng.random((7, 300)) < 0.2
    symbol_P = np.array([0, 1, 2, 2, 1, 0, 1])
    together = run_signals(prices, entries_PT, exits_PT, BacktestConfig(), symbol_P=symbol_P)
    monkeypatch.setattr(signals, "_ROOM", 5)
    cramped = run_signals(prices, entries_PT, exits_PT, BacktestConfig(), symbol_P=symbol_P, threads=3)
    for field in ("orders_P", "bar_N", "units_N", "cash_N"):
        assert np.array_equal(getattr(together, field), getattr(cramped, field))
    assert np.array_equal(
        together.metrics(bars_per_year=252).sharpe_P, cramped.metrics(bars_per_year=252).sharpe_P, equal_nan=True
    )
    for p, s in enumerate(symbol_P):
        alone = run_signals(prices.only(s), entries_PT[p], exits_PT[p], BacktestConfig()).result()
        assert np.array_equal(together.result(p).equity_T, alone.equity_T)
        assert together.result(p).trades.equals(alone.trades)


def test_a_portfolio_that_never_trades_has_no_sharpe_ratio():
    metrics = run_signals(panel([1.0, 2.0]), at(2), at(2), config()).metrics(bars_per_year=252)
    assert metrics.total_return_P.tolist() == metrics.max_drawdown_P.tolist() == [0.0]
    assert math.isnan(metrics.sharpe_P[0])


# --- bad input, one clear error each


@pytest.mark.parametrize(
    ("entries", "exits", "message"),
    [
        (at(4), at(4), r"entries have shape \(1, 4\), but the prices have 3 bars"),
        (at(3), at(4), r"exits have shape \(1, 4\)"),
        (at(3), np.zeros((2, 3), dtype=bool), r"exits have shape \(2, 3\)"),
        (np.zeros(3), at(3), "entries are of type float64; signals are bool"),
    ],
)
def test_signals_that_do_not_fit_the_prices(entries: np.ndarray, exits: np.ndarray, message: str):
    with pytest.raises(BacktestError, match=message):
        run_signals(panel([1.0] * 3), entries, exits, config())


@pytest.mark.parametrize("part", [0.0, -1.0, 1.1, NAN])
def test_a_part_that_cannot_be_spent(part: float):
    with pytest.raises(BacktestError, match="cannot be spent"):
        run_signals(panel([1.0] * 3), at(3), at(3), config(), part=part)


def test_an_entry_before_the_first_bar_of_its_symbol():
    with pytest.raises(BacktestError, match=r"portfolio 1 enters B at 2020-01-01.*before its first bar at 2020-01-02"):
        run_signals(panel([[1.0, NAN], [1.0, 1.0]]), np.array([at(2), at(2, 0)]), np.zeros((2, 2), bool), config())


@pytest.mark.parametrize("symbols", [[0], [0, 3], [0.0, 1.0]])
def test_columns_that_the_panel_has_not(symbols: list[float]):
    flags = np.zeros((2, 2), dtype=bool)
    with pytest.raises(BacktestError, match="must hold one number between 0 and 2 for each of 2 portfolios"):
        run_signals(panel([[1.0] * 3] * 2), flags, flags, config(), symbol_P=symbols)


def test_portfolios_whose_symbol_is_not_said():
    flags = np.zeros((2, 2), dtype=bool)
    with pytest.raises(BacktestError, match="2 portfolios on 3 symbols: say in symbol_P"):
        run_signals(panel([[1.0] * 3] * 2), flags, flags, config())


def test_a_portfolio_that_there_is_not():
    runs = run_signals(panel([1.0] * 3), at(3), at(3), config())
    with pytest.raises(BacktestError, match="no portfolio 1: the runs have 1"):
        runs.result(1)
