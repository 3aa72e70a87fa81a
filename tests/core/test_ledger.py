"""The account books what fills and costs say, opens no more than its capital carries, and agrees with a reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.errors import BacktestError, ConfigError
from quantfleet.ledger import Account, CostModel

from .reference_account import ReferenceAccount

TEN_BPS = CostModel(commission_bps=10.0, slippage_bps=10.0)
FREE = CostModel(commission_bps=0.0, slippage_bps=0.0)


def account(capital: float = 1000.0, symbols: int = 2, costs: CostModel = TEN_BPS, **options: object) -> Account:
    return Account(initial_capital=capital, symbols=symbols, costs=costs, **options)  # type: ignore[arg-type]


def units(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float64)


def prices(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


# --- costs


@pytest.mark.parametrize(
    "field",
    [
        "commission_bps",
        "maker_bps",
        "slippage_bps",
        "spread_bps",
        "impact_bps",
        "borrow_bps_per_year",
        "margin_bps_per_year",
    ],
)
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, 10_000.0])
def test_a_cost_that_is_no_cost_is_a_config_error_naming_the_field(field: str, value: float):
    with pytest.raises(ConfigError, match=rf"costs\.{field}="):
        CostModel(**{field: value})


def test_defaults_are_a_tenth_of_a_percent_each():
    assert (CostModel().commission_rate, CostModel().slippage_rate) == pytest.approx((0.001, 0.001))


def test_buys_pay_more_and_sells_get_less_than_the_market():
    assert TEN_BPS.buy_price(100.0) == pytest.approx(100.1)
    assert TEN_BPS.sell_price(100.0) == pytest.approx(99.9)


def test_half_the_spread_is_paid_on_each_side_on_top_of_the_slippage():
    costs = CostModel(slippage_bps=10.0, spread_bps=40.0)
    assert (costs.buy_price(100.0), costs.sell_price(100.0)) == pytest.approx((100.3, 99.7))


def test_slippage_and_spread_cannot_take_the_whole_price_of_a_sale():
    with pytest.raises(ConfigError, match=r"costs\.slippage_bps=6000.*spread_bps=8000.*below 10000 bps"):
        CostModel(slippage_bps=6000.0, spread_bps=8000.0)


# --- fills, by hand


def test_a_buy_takes_price_slippage_and_commission_from_the_cash():
    books = account()
    fills = books.fill(units(40.0, 0.0), prices(10.0, 20.0))
    assert fills.price_PS[0, 0] == pytest.approx(10.01)
    assert fills.notional[0, 0] == pytest.approx(400.4)
    assert fills.commission_PS[0, 0] == pytest.approx(0.4004)
    assert fills.slippage_PS[0, 0] == pytest.approx(0.4)
    assert books.cash_P[0] == pytest.approx(1000.0 - 400.4 - 0.4004)
    assert books.equity[0] == pytest.approx(1000.0 - 0.4 - 0.4004)
    assert (books.commission_P[0], books.slippage_P[0]) == pytest.approx((0.4004, 0.4))


def test_a_buy_beyond_the_cash_is_scaled_to_what_the_cash_allows_with_costs():
    books = account()
    fills = books.fill(units(1000.0, 0.0), prices(10.0, 20.0))
    assert fills.units_PS[0, 0] == pytest.approx(1000.0 / (10.01 * 1.001))
    assert books.cash_P[0] == pytest.approx(0.0, abs=1e-9)


def test_several_buys_beyond_the_cash_share_one_scale():
    books = account()
    books.fill(units(200.0, 50.0), prices(10.0, 20.0))
    assert books.units_PS[0, 0] / books.units_PS[0, 1] == pytest.approx(4.0)
    assert books.cash_P[0] == pytest.approx(0.0, abs=1e-9)


def test_a_sell_pays_for_a_buy_of_the_same_moment():
    books = account(costs=FREE)
    books.fill(units(100.0, 0.0), prices(10.0, 20.0))
    books.fill(units(-100.0, 50.0), prices(10.0, 20.0))
    assert books.units_PS[0] == pytest.approx([0.0, 50.0])
    assert books.cash_P[0] == pytest.approx(0.0, abs=1e-9)


def test_a_long_only_account_refuses_to_sell_what_it_has_not_got():
    books = account()
    books.fill(units(10.0, 0.0), prices(10.0, 20.0))
    with pytest.raises(BacktestError, match=r"sells 11\.0 units of symbol 0.*may not go short"):
        books.fill(units(-11.0, 0.0), prices(10.0, 20.0))


def test_a_short_takes_collateral_of_its_value_so_that_gross_exposure_stays_within_equity():
    books = account(allow_short=True)
    books.fill(units(-1000.0, 1000.0), prices(10.0, 20.0))
    assert books.units_PS[0, 0] < 0 < books.units_PS[0, 1]
    assert books.gross_exposure[0] == pytest.approx(books.equity[0])
    assert books.free_capital[0] == pytest.approx(0.0, abs=1e-9)


def test_a_short_earns_when_the_price_falls():
    books = account(costs=FREE, allow_short=True)
    books.fill(units(-50.0, 0.0), prices(10.0, 20.0))
    books.mark(prices(8.0, 20.0))
    assert books.equity[0] == pytest.approx(1000.0 + 50.0 * 2.0)


def test_a_short_pays_its_borrow_fee_from_the_cash():
    books = account(costs=CostModel(commission_bps=0.0, slippage_bps=0.0, borrow_bps_per_year=200.0), allow_short=True)
    books.fill(units(-50.0, 20.0), prices(10.0, 20.0))
    assert books.accrue(0.5).tolist() == pytest.approx([50.0 * 10.0 * 0.02 * 0.5])
    assert (books.equity[0], books.borrow_P[0]) == pytest.approx((995.0, 5.0))


@pytest.mark.parametrize("years", [-0.1, math.nan, math.inf])
def test_a_fee_accrues_forward_in_time_only(years: float):
    with pytest.raises(BacktestError, match="cannot accrue over"):
        account().accrue(years)


def test_a_losing_short_can_always_be_covered_and_nothing_can_be_opened_meanwhile():
    books = account(costs=FREE, allow_short=True)
    books.fill(units(-100.0, 0.0), prices(10.0, 20.0))
    books.mark(prices(18.0, 20.0))
    assert books.free_capital[0] < 0
    books.fill(units(40.0, 10.0), prices(18.0, 20.0))
    assert books.units_PS[0] == pytest.approx([-60.0, 0.0])


def test_one_order_closes_a_long_and_opens_a_short():
    books = account(costs=FREE, allow_short=True)
    books.fill(units(50.0, 0.0), prices(10.0, 20.0))
    books.fill(units(-80.0, 0.0), prices(10.0, 20.0))
    assert books.units_PS[0] == pytest.approx([-30.0, 0.0])
    assert books.cash_P[0] == pytest.approx(1300.0)


def test_a_symbol_without_a_price_does_not_trade_and_keeps_its_last_mark():
    books = account(costs=FREE)
    books.fill(units(10.0, 10.0), prices(10.0, 20.0))
    fills = books.fill(units(-10.0, -10.0), prices(math.nan, 21.0))
    assert fills.units_PS[0].tolist() == [0.0, -10.0]
    assert math.isnan(fills.price_PS[0, 0])
    assert books.equity[0] == pytest.approx(1010.0)


def test_rounding_noise_is_not_traded_but_a_position_closes_to_the_last_unit():
    books = account()
    books.fill(units(40.0, 1e-9), prices(10.0, 20.0))
    assert books.units_PS[0].tolist() == [40.0, 0.0]
    books.fill(units(1e-9 - 40.0, 0.0), prices(10.0, 20.0))
    books.fill(-books.units_PS, prices(10.0, 20.0))
    assert books.units_PS[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf])
def test_a_price_that_is_not_positive_and_finite_is_refused_before_anything_is_booked(bad: float):
    books = account()
    with pytest.raises(BacktestError, match="cannot be booked"):
        books.fill(units(1.0, 1.0), prices(10.0, bad))
    assert (books.cash_P[0], books.units_PS.any()) == (1000.0, False)


def test_an_order_of_nan_units_is_refused():
    with pytest.raises(BacktestError, match="NaN or infinite units"):
        account().fill(units(math.nan, 1.0), prices(10.0, 20.0))


@pytest.mark.parametrize("capital", [0.0, -1.0, math.nan, math.inf])
def test_an_account_opens_with_money(capital: float):
    with pytest.raises(BacktestError, match="cannot open with a capital"):
        account(capital=capital)


# --- against the reference, order by order

SYMBOLS = ("a", "b", "c")
price_move = st.floats(-0.5, 0.5)
order_size = st.one_of(st.just(0.0), st.just(1e-13), st.floats(-2.0, 2.0))
cost_models = st.builds(CostModel, commission_bps=st.floats(0.0, 100.0), slippage_bps=st.floats(0.0, 100.0))
steps = st.lists(
    st.tuples(
        st.tuples(*[price_move] * 3),  # log move of each price
        st.tuples(*[order_size] * 3),  # order as a share of the capital
        st.tuples(*[st.booleans()] * 3),  # whether the symbol has a price at this step
    ),
    min_size=1,
    max_size=8,
)


def orders_of(books: Account, shares: tuple[float, ...], market: np.ndarray, allow_short: bool) -> np.ndarray:
    wanted = np.array(shares) * 1000.0 / market
    return (wanted if allow_short else np.maximum(wanted, -books.units_PS[0]))[None]


@settings(max_examples=150, deadline=None)
@given(steps=steps, costs=cost_models, allow_short=st.booleans())
def test_every_fill_equals_the_reference_and_money_is_conserved(
    steps: list[tuple[tuple[float, ...], tuple[float, ...], tuple[bool, ...]]], costs: CostModel, allow_short: bool
):
    books = account(symbols=3, costs=costs, allow_short=allow_short)
    plain = ReferenceAccount(1000.0, costs.commission_rate, costs.slippage_rate)
    market = np.array([10.0, 20.0, 0.5])
    spent = 0.0
    for moves, shares, present in steps:
        market = market * np.exp(moves)
        order = orders_of(books, shares, market, allow_short)
        quoted = np.where(present, market, np.nan)
        fills = books.fill(order, quoted)
        expected = plain.fill(
            dict(zip(SYMBOLS, order[0].tolist(), strict=True)),
            {s: p for s, p, here in zip(SYMBOLS, market.tolist(), present, strict=True) if here},
        )
        by_symbol = {fill.symbol: fill for fill in expected}
        for s, name in enumerate(SYMBOLS):
            if name in by_symbol:
                fill = by_symbol[name]
                assert fills.units_PS[0, s] == pytest.approx(fill.units, rel=1e-9, abs=1e-9)
                assert fills.price_PS[0, s] == pytest.approx(fill.price, rel=1e-12)
                assert fills.commission_PS[0, s] == pytest.approx(fill.commission, rel=1e-9, abs=1e-9)
                assert fills.slippage_PS[0, s] == pytest.approx(fill.slippage, rel=1e-9, abs=1e-9)
            else:
                assert fills.units_PS[0, s] == 0.0
        spent += float(np.nansum(fills.units_PS * np.nan_to_num(fills.price_PS)) + fills.commission_PS.sum())
        assert books.cash_P[0] == pytest.approx(1000.0 - spent, rel=1e-9, abs=1e-6)
        assert books.cash_P[0] == pytest.approx(plain.cash, rel=1e-9, abs=1e-6)
        assert books.equity[0] == pytest.approx(plain.equity(), rel=1e-9, abs=1e-6)
        if not allow_short:
            assert books.cash_P[0] >= -1e-6
            assert (books.units_PS >= 0.0).all()


@settings(max_examples=60, deadline=None)
@given(shares=st.tuples(*[st.floats(-2.0, 2.0)] * 3), order=st.permutations([0, 1, 2]), costs=cost_models)
def test_the_order_of_symbols_does_not_matter(shares: tuple[float, ...], order: list[int], costs: CostModel):
    market = np.array([10.0, 20.0, 0.5])
    wanted = np.array(shares) * 1000.0 / market
    straight, shuffled = (account(symbols=3, costs=costs, allow_short=True) for _ in range(2))
    straight.fill(wanted[None], market)
    shuffled.fill(wanted[order][None], market[order])
    assert shuffled.units_PS[0] == pytest.approx(straight.units_PS[0, order], rel=1e-9)
    assert shuffled.cash_P[0] == pytest.approx(straight.cash_P[0], rel=1e-9)


def test_portfolios_in_one_account_are_as_independent_as_accounts_of_their_own():
    rng = np.random.default_rng(0)
    together = account(symbols=3, portfolios=4, allow_short=True)
    alone = [account(symbols=3, allow_short=True) for _ in range(4)]
    for _ in range(20):
        market = rng.uniform(5.0, 15.0, 3)
        order_PS = rng.normal(0.0, 60.0, (4, 3))
        together.fill(order_PS, market)
        for p, books in enumerate(alone):
            books.fill(order_PS[p : p + 1], market)
    assert np.array_equal(together.units_PS, np.concatenate([books.units_PS for books in alone]))
    assert np.array_equal(together.cash_P, np.concatenate([books.cash_P for books in alone]))
