"""Fees of makers, impact, funding, interest, lots, ticks, leverage, margin and currencies, each by hand."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from quantfleet.backtest import BacktestConfig, BarPanel, run_backtest, run_signals
from quantfleet.errors import BacktestError, ConfigError, SchemaError
from quantfleet.ledger import Account, CostModel

from .backtest_support import NAN, config, panel, weights

FREE = CostModel(commission_bps=0.0, slippage_bps=0.0)


def utc(day: int, hour: int = 0) -> dt.datetime:
    return dt.datetime(2020, 1, day, hour, tzinfo=dt.UTC)


def account(costs: CostModel = FREE, **options: object) -> Account:
    return Account(initial_capital=1000.0, symbols=1, costs=costs, **options)  # type: ignore[arg-type]


def trade(books: Account, units: float, price: float, **options: object) -> tuple[float, float]:
    """Units filled and the price paid."""
    fills = books.fill(np.array([[units]]), np.array([price]), **options)  # type: ignore[arg-type]
    return float(fills.units_PS[0, 0]), float(fills.price_PS[0, 0])


# --- fees


def test_a_maker_pays_his_own_fee_and_neither_spread_nor_slippage():
    costs = CostModel(commission_bps=10.0, maker_bps=2.0, slippage_bps=10.0, spread_bps=20.0)
    books = account(costs)
    assert trade(books, 10.0, 20.0, maker=True) == (10.0, 20.0)
    assert books.cash_P[0] == pytest.approx(1000.0 - 200.0 - 200.0 * 0.0002)
    assert trade(books, -10.0, 20.0)[1] == pytest.approx(20.0 * (1.0 - 0.002))


def test_a_maker_without_a_fee_of_his_own_pays_the_commission():
    assert CostModel(commission_bps=7.0).terms(maker=True).commission == pytest.approx(0.0007)


def test_impact_grows_with_the_root_of_the_share_of_the_volume():
    """100 bps at the whole volume: a quarter of it costs half, 50 bps; what is sold loses as much."""
    costs = CostModel(commission_bps=0.0, slippage_bps=0.0, impact_bps=100.0)
    books = account(costs)
    assert trade(books, 25.0, 10.0, volume_S=np.array([100.0])) == (25.0, pytest.approx(10.05))
    assert trade(books, -4.0, 10.0, volume_S=np.array([100.0])) == (-4.0, pytest.approx(9.98))
    assert books.slippage_P[0] == pytest.approx(25.0 * 0.05 + 4.0 * 0.02)


def test_a_symbol_that_nobody_traded_does_not_trade_and_impact_without_volumes_is_an_error():
    books = account(CostModel(impact_bps=1.0))
    assert trade(books, 1.0, 10.0, volume_S=np.array([0.0]))[0] == 0.0
    with pytest.raises(BacktestError, match="impact_bps needs the volume"):
        trade(books, 1.0, 10.0)


def test_an_order_is_measured_by_the_volume_of_the_bar_it_was_decided_in():
    prices = replace(panel([10.0] * 4), volume_TS=np.array([[400.0], [1.0], [0.0], [1.0]]))
    costs = CostModel(commission_bps=0.0, slippage_bps=0.0, impact_bps=100.0)
    result = run_backtest(prices, weights([0.25, NAN, 0.0, NAN]), config(costs=costs))
    assert result.trades["price"].to_list() == [pytest.approx(10.0 * (1.0 + 0.01 * np.sqrt(25.0 / 400.0)))]
    assert result.positions_TS[-1, 0] == 25.0  # the sale was decided in a bar without volume: it still waits


def test_an_impact_needs_bars_with_volume():
    costs = CostModel(impact_bps=10.0)
    with pytest.raises(BacktestError, match="needs bars with volume"):
        run_backtest(panel([10.0] * 2), weights([1.0, NAN]), config(costs=costs))
    flags = np.zeros(2, dtype=bool)
    with pytest.raises(BacktestError, match=r"volume -1\.0 of A at 2020-01-02"):
        run_signals(replace(panel([10.0] * 2), volume_TS=np.array([[1.0], [-1.0]])), flags, flags, config(costs=costs))


def test_longs_pay_funding_to_shorts_and_get_it_when_it_is_negative():
    books = account(allow_short=True)
    trade(books, 50.0, 10.0)
    assert books.accrue(0.0, funding_S=np.array([0.01])).tolist() == [5.0]
    trade(books, -80.0, 10.0)
    assert books.accrue(0.0, funding_S=np.array([0.01])).tolist() == [-3.0]
    assert books.accrue(0.0, funding_S=np.array([NAN])).tolist() == [0.0]
    assert (books.funding_P[0], books.equity[0]) == (2.0, 998.0)


def test_funding_is_charged_at_the_first_open_at_or_after_it_on_what_was_held_until_then():
    settlements = pl.DataFrame(
        {
            "symbol": ["A", "A", "A", "Z"],
            "timestamp": [utc(2), utc(2, 8), utc(3), utc(3)],
            "rate": [0.5, 0.001, 0.002, 0.9],
        }
    )
    prices = panel([10.0] * 4).with_funding(settlements)
    assert prices.funding_TS[:, 0].tolist() == pytest.approx([0.0, 0.5, 0.003, 0.0])
    result = run_backtest(prices, weights([0.5, NAN, NAN, NAN]), config())
    assert result.funding_T.tolist() == pytest.approx([0.0, 0.0, 500.0 * 0.003, 0.0])
    assert result.equity_T[-1] == pytest.approx(998.5)
    assert result.gross_return_T[2] == pytest.approx(0.0)


def test_funding_that_cannot_be_booked():
    row = pl.DataFrame({"symbol": ["A"], "timestamp": [utc(1)], "rate": [None]})
    with pytest.raises(BacktestError, match=r"funding rate of A at 2020-01-01.* is nan"):
        panel([1.0] * 2).with_funding(row)
    with pytest.raises(SchemaError, match="no column 'rate'"):
        panel([1.0] * 2).with_funding(row.drop("rate"))


# --- steps


def test_lots_are_rounded_towards_zero_but_a_position_closes_whole():
    books = account(lot_S=np.array([10.0]), allow_short=True)
    assert trade(books, 27.0, 10.0)[0] == 20.0
    assert trade(books, -15.0, 10.0)[0] == -10.0
    books.units_PS[0, 0] = 3.5
    assert trade(books, -3.5, 10.0)[0] == -3.5
    assert trade(books, -9.0, 10.0)[0] == 0.0


def test_a_turn_closes_whole_and_opens_in_lots():
    books = account(lot_S=np.array([10.0]), allow_short=True)
    books.units_PS[0, 0] = 3.5
    assert trade(books, -18.5, 10.0)[0] == -13.5


def test_prices_are_rounded_to_ticks_against_the_account():
    books = account(CostModel(commission_bps=0.0, slippage_bps=10.0), tick_S=np.array([0.05]))
    assert trade(books, 1.0, 10.0)[1] == pytest.approx(10.05)
    assert trade(books, -1.0, 10.0)[1] == pytest.approx(9.95)
    exact = account(tick_S=np.array([0.05]))
    assert trade(exact, 1.0, 10.15)[1] == pytest.approx(10.15)


def test_steps_of_the_panel_go_before_those_of_the_config():
    prices = replace(panel([[10.0, 10.0]] * 2), lot_S=np.array([7.0, 0.5]))
    result = run_backtest(prices, weights([[0.5, 0.5], [NAN, NAN]]), config(lot_units=1.0))
    assert result.positions_TS[-1].tolist() == [49.0, 50.0]
    whole = run_backtest(panel([[30.0, 30.0]] * 2), weights([[0.5, 0.5], [NAN, NAN]]), config(lot_units=1.0))
    assert whole.positions_TS[-1].tolist() == [16.0, 16.0]


def test_signals_round_to_the_lots_of_their_own_symbol():
    prices = replace(panel([[30.0, 30.0]] * 2), lot_S=np.array([1.0, 10.0]))
    entries = np.array([[True, False]] * 2)
    assert run_signals(prices, entries, ~entries & False, config()).units_N.tolist() == [33.0, 30.0]


# --- leverage and margin


def test_leverage_opens_more_than_the_equity_and_interest_is_paid_on_what_is_owed():
    """3 times 1000 at 10: 300 units, 2000 owed; 36.5 % a year is 0.1 % a day: 2.00."""
    costs = CostModel(commission_bps=0.0, slippage_bps=0.0, margin_bps_per_year=3650.0)
    result = run_backtest(panel([10.0] * 3), weights([3.0, NAN, NAN]), config(costs=costs, leverage=3.0))
    assert result.positions_TS[:, 0].tolist() == [0.0, 300.0, 300.0]
    assert result.interest_T.tolist() == pytest.approx([0.0, 0.0, 2.0])
    assert result.equity_T[-1] == pytest.approx(998.0)


def test_openings_with_costs_stay_within_the_leverage_after_they_are_paid():
    books = account(CostModel(commission_bps=100.0, slippage_bps=100.0), leverage=2.0)
    trade(books, 1000.0, 10.0)
    assert books.gross_exposure[0] == pytest.approx(2.0 * books.equity[0])
    assert books.free_capital[0] == pytest.approx(0.0, abs=1e-9)


def test_a_margin_call_closes_everything_at_the_next_open_and_the_account_may_trade_again():
    """Twice 1000 in 200 units at 10. At 6.5 the equity is 1300 - 1000 = 300, below 25 % of 1300 = 325: sold at 6, 200 is left.
    The decision of that close counts for nothing; the next one buys 200 / 6.
    """
    prices = panel([10.0, 10.0, 6.5, 6.0, 6.0, 6.0])
    options = {"leverage": 2.0, "maintenance_margin": 0.25}
    result = run_backtest(prices, weights([2.0, NAN, 2.0, 1.0, NAN, NAN]), config(**options))
    assert result.margin_call_T.tolist() == [False, False, True, False, False, False]
    assert result.positions_TS[:, 0] == pytest.approx([0.0, 200.0, 200.0, 0.0, 200.0 / 6.0, 200.0 / 6.0])
    assert result.equity_T[-1] == pytest.approx(200.0)


def test_an_account_knows_its_margin_calls():
    books = account(leverage=2.0, maintenance_margin=0.25)
    trade(books, 200.0, 10.0)
    calls = []
    for price in (7.0, 6.5, 4.0):
        books.mark(np.array([price]))
        calls.append(bool(books.margin_call[0]))
    assert calls == [False, True, True]


def test_weights_above_the_leverage_are_refused():
    with pytest.raises(BacktestError, match=r"more than the whole capital times backtest\.leverage=2"):
        run_backtest(panel([10.0] * 2), weights([2.1, NAN]), config(leverage=2.0))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"leverage": 0.5}, "leverage"),
        ({"leverage": NAN}, "leverage"),
        ({"leverage": 4.0, "maintenance_margin": 0.25}, "maintenance_margin"),
        ({"maintenance_margin": -0.1}, "maintenance_margin"),
        ({"lot_units": -1.0}, "lot_units"),
        ({"tick": NAN}, "tick"),
    ],
)
def test_a_config_out_of_range_names_its_key(options: dict[str, float], key: str):
    with pytest.raises(ConfigError, match=rf"backtest\.{key}="):
        BacktestConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["leverage", "funding"])
def test_signals_refuse_what_happens_between_their_trades(what: str):
    prices, flags = panel([10.0] * 2), np.zeros(2, dtype=bool)
    if what == "funding":
        prices = replace(prices, funding_TS=np.zeros((2, 1)))
    with pytest.raises(BacktestError, match=f"there is .*{what}.*run_backtest"):
        run_signals(prices, flags, flags, config(leverage=2.0 if what == "leverage" else 1.0))


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("volume_TS", np.ones((3, 1)), r"volume_TS has shape \(3, 1\); it needs \(2, 1\)"),
        ("funding_TS", np.array([[0.0], [np.inf]]), "infinite rate"),
        ("lot_S", np.array([0.0]), "lot_S=.*positive"),
        ("tick_S", np.array([NAN]), "tick_S=.*positive"),
    ],
)
def test_market_data_that_cannot_be_booked(field: str, values: np.ndarray, message: str):
    with pytest.raises(BacktestError, match=message):
        replace(panel([1.0] * 2), **{field: values})


# --- currencies


def currencies(rows: list[list[float]], names: tuple[str, ...] = ("EUR",)) -> BarPanel:
    return panel(rows, symbols=names)


def test_a_position_abroad_gains_with_its_price_and_with_the_rate():
    """10 EUR at 1.00, later 11 EUR at 1.20: 13.20 USD. 500 USD buy 50 units, then worth 660."""
    prices = panel([[10.0, 5.0], [10.0, 5.0], [11.0, 5.0]])
    converted = prices.in_currency("USD", ["EUR", "USD"], currencies([[1.0], [1.0], [1.2]]))
    assert converted.close_TS.tolist() == [[10.0, 5.0], [10.0, 5.0], [pytest.approx(13.2), 5.0]]
    result = run_backtest(converted, weights([[0.5, 0.0], [NAN, NAN], [NAN, NAN]]), config())
    assert result.equity_T[-1] == pytest.approx(500.0 + 660.0)


def test_a_rate_without_a_bar_is_its_last_close():
    prices = panel([10.0, 10.0, 10.0])
    converted = prices.in_currency("USD", ["EUR"], currencies([[1.1], [NAN], [1.3]]))
    assert converted.open_TS[:, 0].tolist() == pytest.approx([11.0, 11.0, 13.0])


@pytest.mark.parametrize(
    ("quotes", "rates", "message"),
    [
        (["JPY"], [[1.0], [1.0]], "no rates for JPY; there are rates for EUR in USD"),
        (["EUR", "EUR"], [[1.0], [1.0]], "2 quote currencies for 1 symbols"),
        (["EUR"], [[1.0], [1.0], [1.0]], "different times"),
        (["EUR"], [[NAN], [1.0]], "before the first rate of EUR"),
    ],
)
def test_rates_that_do_not_fit_the_prices(quotes: list[str], rates: list[list[float]], message: str):
    with pytest.raises(BacktestError, match=message):
        panel([10.0, 10.0]).in_currency("USD", quotes, currencies(rates))


def test_a_panel_with_ticks_cannot_be_converted():
    with pytest.raises(BacktestError, match="ticks are steps of prices in their own currency"):
        replace(panel([10.0] * 2), tick_S=np.ones(1)).in_currency("USD", ["EUR"], currencies([[1.0]] * 2))
