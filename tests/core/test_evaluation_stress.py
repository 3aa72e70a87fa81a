"""Each scenario bends prices as it says, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from quantfleet.backtest import BacktestConfig, BarPanel, run_backtest
from quantfleet.evaluation import total_return
from quantfleet.evaluation.stress import SCENARIOS, StressScenario

BARS = 200


def panel(holes: bool = False) -> BarPanel:
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0.0, 0.01, (BARS, 2)), axis=0))
    opened = close * np.exp(rng.normal(0.0, 0.002, (BARS, 2)))
    if holes:
        opened[50:55, 0] = close[50:55, 0] = np.nan
    times = np.datetime64("2020-01-01", "us") + np.arange(BARS) * np.timedelta64(1, "D")
    return BarPanel(open_TS=opened, close_TS=close, time_T=times, symbols=("A", "B"))


def scenario(start: str) -> StressScenario:
    (found,) = [own for own in SCENARIOS if own.name.startswith(start)]
    return found


def bent(start: str, whole: BarPanel) -> BarPanel:
    return scenario(start).bend(whole, 1)


def test_a_crash_takes_a_fifth_over_five_bars_and_leaves_what_was_before():
    whole = panel()
    crashed = bent("crash", whole)
    ratio = crashed.close_TS / whole.close_TS
    assert ratio[: BARS // 2] == pytest.approx(1.0)
    assert ratio[BARS // 2 + 4 :] == pytest.approx(0.8)
    assert (np.diff(ratio[BARS // 2 - 1 : BARS // 2 + 5, 0]) < 0).all()
    held = run_backtest(crashed, np.full((BARS, 2), 0.5), BacktestConfig()).net_return_T
    real = run_backtest(whole, np.full((BARS, 2), 0.5), BacktestConfig()).net_return_T
    assert (1 + total_return(held)) / (1 + total_return(real)) == pytest.approx(0.8, abs=0.01)


def test_a_gap_is_there_at_the_open_so_that_no_order_gets_out_before_it():
    whole = panel()
    gapped = bent("gap", whole)
    at = BARS // 2
    assert gapped.open_TS[at] / whole.open_TS[at] == pytest.approx(0.9)
    assert gapped.close_TS[at - 1] == pytest.approx(whole.close_TS[at - 1])


def test_twice_the_volatility_doubles_moves_and_keeps_where_the_closes_go():
    whole = panel(holes=True)
    wild = bent("twice", whole)

    def moves(closes: np.ndarray) -> np.ndarray:
        return np.diff(np.log(closes[np.isfinite(closes)]))

    for s in range(2):
        calm, wilder = moves(whole.close_TS[:, s]), moves(wild.close_TS[:, s])
        assert wilder - wilder.mean() == pytest.approx(2 * (calm - calm.mean()), abs=1e-9)
        assert wilder.mean() == pytest.approx(calm.mean(), abs=1e-3)
    assert (np.isnan(wild.close_TS) == np.isnan(whole.close_TS)).all()


def test_missing_bars_are_whole_bars_and_a_tenth_of_them():
    holed = bent("a tenth", panel())
    gone = np.isnan(holed.close_TS)
    assert gone.mean() == pytest.approx(0.1, abs=0.04)
    assert (gone == np.isnan(holed.open_TS)).all()
    assert not gone[[0, -1]].any()
    assert (np.isnan(bent("a tenth", panel()).close_TS) == gone).all(), "the seed decides"


def test_without_liquidity_prices_are_the_same_and_costs_are_not():
    whole = panel()
    assert bent("liquidity", whole) is whole
    assert scenario("liquidity").cost_factor == 5.0
