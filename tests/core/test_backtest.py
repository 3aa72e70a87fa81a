"""Decisions at the close are filled at the next open, after costs, within the capital."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from quantfleet.backtest import TRADE_SCHEMA, BacktestConfig, BarPanel, run_backtest
from quantfleet.errors import BacktestError, ConfigError
from quantfleet.ledger import CostModel

from .backtest_support import NAN, config, days, panel, random_walk, weights

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
        "interest",
        "funding",
        "margin_call",
        "stops",
        "halted",
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


def test_rows_for_the_bars_decided_at_equal_rows_of_nan_at_all_others():
    prices, rng = random_walk(60, 3), np.random.default_rng(3)
    decided_at = np.flatnonzero(rng.random(60) < 0.3)
    rows = rng.dirichlet(np.ones(4), len(decided_at))[:, :3]
    dense = np.full((60, 3), NAN)
    dense[decided_at] = rows
    sparse = run_backtest(prices, rows, BacktestConfig(), decided_at=decided_at)
    assert sparse.trades.equals(run_backtest(prices, dense, BacktestConfig()).trades)


@pytest.mark.parametrize("decided_at", [[1, 0], [0, 0], [-1, 0], [0, 3]])
def test_bars_decided_at_that_do_not_rise_or_that_there_are_not(decided_at: list[int]):
    with pytest.raises(BacktestError, match="must hold rising numbers of bars between 0 and 2"):
        run_backtest(panel([1.0] * 3), weights([0.0, 0.0]), config(), decided_at=decided_at)
