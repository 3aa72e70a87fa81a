"""From bars to panels and from forecasts to weights."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from quantfleet.backtest import BacktestConfig, BarPanel, PositionPolicy, run_backtest
from quantfleet.errors import BacktestError, ConfigError, SchemaError
from quantfleet.ledger import BPS

from .backtest_support import NAN, config, days, panel, random_walk

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
