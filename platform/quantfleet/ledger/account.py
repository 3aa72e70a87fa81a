"""The account: cash, units per symbol, fills and fees. One set of books for backtest, environments and paper trading.

All arithmetic of money is in `kernel.py`, compiled; this account and the engines' loops call it. Engines decide what to order
and when, never what it costs.

Shapes: P independent portfolios that see the same market, S symbols. Money is in one quote currency, positions are in
units.

Capital. No order may lift the gross exposure (longs plus shorts, at market prices) above `leverage` times the equity, 1 by
default. Without leverage a short's proceeds stay locked and it takes collateral of its own value, so the capital that can open
positions is `cash - 2 * short value`, which for a long-only account is its cash. Orders are split into the part that reduces a
position and the part that opens one. Reductions are filled whole and first; if the openings of a portfolio then need
more than its free capital, costs included, all of them are scaled by one common factor. Hence the order in which
symbols are listed changes nothing.

Steps. With lots, the reducing and the opening part of an order are each rounded towards zero; what closes a position is never
rounded. With ticks, fill prices are rounded against the account. Impact is priced on the order as it was given when capital is
shared out, and on what was traded when it is paid, so it never takes more than was set aside.

Currencies. The books are kept in one currency. Prices in others are converted before they come here
(`BarPanel.in_currency`): a position abroad gains and loses with its price and with the rate, as one paid for in cash does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantfleet.compiled import read_only
from quantfleet.errors import BacktestError
from quantfleet.ledger.costs import CostModel
from quantfleet.ledger.terms import FREE_UNITS

__all__ = ["Account", "Fills"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fills:
    """What was booked by one call of `Account.fill`; symbols that did not trade hold zero units."""

    units_PS: Array
    """Signed units: positive bought, negative sold."""
    price_PS: Array
    """Fill price, slippage included; NaN where the symbol has no price."""
    commission_PS: Array
    """Fees paid, at least 0."""
    slippage_PS: Array
    """Money lost to the difference between fill price and market price, at least 0. Already inside `price_PS`."""

    @property
    def notional(self) -> Array:
        """Traded value at the fill price, shape (P, S), at least 0."""
        return np.abs(self.units_PS) * np.where(self.units_PS == 0.0, 0.0, self.price_PS)


class Account:
    """P accounts of S symbols, held as arrays. Not thread-safe; owned by the engine that made it.

    Money is conserved: the cash changes by exactly what fills, their commissions and borrow fees say, and the equity is cash plus
    units at the last known price.
    """

    def __init__(
        self,
        *,
        initial_capital: float,
        symbols: int,
        costs: CostModel,
        allow_short: bool = False,
        portfolios: int = 1,
        leverage: float = 1.0,
        maintenance_margin: float = 0.0,
        lot_S: Array = FREE_UNITS,
        tick_S: Array = FREE_UNITS,
    ) -> None:
        """Open P accounts that hold nothing but cash.

        Args:
            leverage: most gross exposure as a multiple of the equity.
            maintenance_margin: equity below this share of the gross exposure is a margin call.
            lot_S, tick_S: smallest steps of units and of prices, shape (S,), above 0; no elements where there are none.
        Raises: BacktestError: the capital is not a positive finite number.
        """
        if not (np.isfinite(initial_capital) and initial_capital > 0):
            raise BacktestError(f"an account cannot open with a capital of {initial_capital}; it must be above 0.")
        self.costs = costs
        self.allow_short = allow_short
        self.cash_P: Array = np.full(portfolios, initial_capital, dtype=np.float64)
        self.units_PS: Array = np.zeros((portfolios, symbols))
        self.mark_S: Array = np.zeros(symbols)
        """Last known market price of each symbol; 0 before its first."""
        self.commission_P: Array = np.zeros(portfolios)
        """Fees paid since opening."""
        self.slippage_P: Array = np.zeros(portfolios)
        """Money lost to slippage and spread since opening."""
        self.borrow_P: Array = np.zeros(portfolios)
        """Borrow fees paid since opening."""
        self.interest_P: Array = np.zeros(portfolios)
        """Interest on money owed, paid since opening."""
        self.funding_P: Array = np.zeros(portfolios)
        """Funding paid since opening; negative when more was received."""
        self.maintenance_margin = maintenance_margin
        lot_S, tick_S = read_only(lot_S), read_only(tick_S)
        self._terms = costs.terms(leverage=leverage, lot_S=lot_S, tick_S=tick_S)
        self._maker_terms = costs.terms(maker=True, leverage=leverage, lot_S=lot_S, tick_S=tick_S)

    @property
    def value(self) -> Array:
        """Signed market value of each position at the last known price, shape (P, S)."""
        return self.units_PS * self.mark_S

    @property
    def equity(self) -> Array:
        """Cash plus the value of all positions, shape (P,)."""
        equity: Array = self.cash_P + self.value.sum(axis=-1)
        return equity

    @property
    def gross_exposure(self) -> Array:
        """Longs plus the absolute value of shorts, shape (P,)."""
        gross: Array = np.abs(self.value).sum(axis=-1)
        return gross

    @property
    def free_capital(self) -> Array:
        """Money that can open positions, shape (P,); negative when losing shorts have eaten into the collateral."""
        from quantfleet.ledger import kernel

        free = [
            kernel.free_capital(cash, units_S, self.mark_S, self._terms.leverage)
            for cash, units_S in zip(self.cash_P, self.units_PS, strict=True)
        ]
        return np.array(free)

    def mark(self, price_S: Array) -> None:
        """Take market prices, shape (S,); NaN keeps a symbol's last known one.

        Raises: BacktestError: a price is zero, negative or infinite.
        """
        bad = (price_S <= 0.0) | np.isinf(price_S)
        if bad.any():
            raise BacktestError(
                f"a market price of {price_S[bad][0]} cannot be booked; prices are positive and finite."
            )
        np.copyto(self.mark_S, price_S, where=~np.isnan(price_S))

    @property
    def margin_call(self) -> npt.NDArray[np.bool_]:
        """Whether all must be closed, shape (P,): the equity is below the maintenance margin, or gone."""
        from quantfleet.ledger import kernel

        return np.array(
            [
                kernel.margin_call(equity, units_S, self.mark_S, self.maintenance_margin)
                for equity, units_S in zip(self.equity, self.units_PS, strict=True)
            ]
        )

    def accrue(self, years: float, *, funding_S: Array = FREE_UNITS) -> Array:
        """Charge what holding cost since the last call, at the last known prices.

        Shorts pay the borrow fee and money owed its interest for the time, longs of perpetual futures pay funding to shorts.

        Args:
            years: time since the last call, 365 days to the year.
            funding_S: funding rates that fell due, fractions of a position's value, shape (S,); NaN for none.
        Returns: what each account paid, shape (P,), taken from the cash; negative where funding brought more.
        Raises: BacktestError: the time is negative or not finite.
        """
        if not (np.isfinite(years) and years >= 0.0):
            raise BacktestError(f"a fee cannot accrue over {years} years; time runs forward.")
        from quantfleet.ledger import kernel

        borrow, margin = self.costs.borrow_rate_per_year * years, self.costs.margin_rate_per_year * years
        rates_S = read_only(np.asarray(funding_S, dtype=np.float64))
        charges = np.array(
            [
                kernel.accrue(cash, units_S, self.mark_S, rates_S, borrow, margin)
                for cash, units_S in zip(self.cash_P, self.units_PS, strict=True)
            ]
        )
        self.borrow_P += charges[:, 0]
        self.interest_P += charges[:, 1]
        self.funding_P += charges[:, 2]
        paid_P: Array = charges.sum(axis=1)
        self.cash_P -= paid_P
        return paid_P

    def fill(self, order_PS: Array, price_S: Array, *, maker: bool = False, volume_S: Array | None = None) -> Fills:
        """Fill orders at once and book them; marks the account at the same prices.

        Args:
            order_PS: signed units to trade, shape (P, S); 0 for none. What cannot be paid for is scaled down, see the
                head of this module.
            price_S: market prices before slippage, shape (S,); a symbol whose price is NaN does not trade.
            maker: the orders were waiting in the book at these prices: the maker's fee, no spread, slippage or impact.
            volume_S: units that the market traded in the last bar, shape (S,); a symbol without any does not trade. Needed where
                the costs have an impact.
        Returns: what was traded, which may be less than ordered.
        Raises: BacktestError: a price is not positive, an order is not finite, or it sells units that a long-only
            account has not got; impact without volumes.
        """
        from quantfleet.ledger import kernel

        terms = self._maker_terms if maker else self._terms
        if terms.impact > 0.0 and volume_S is None:
            raise BacktestError(
                "costs.impact_bps needs the volume of the last bar: give volume_S, or set the impact to 0."
            )
        self.mark(price_S)
        self._refuse_orders(order_PS, price_S)
        tradable_S = np.array(price_S, dtype=np.float64)
        if terms.impact > 0.0 and volume_S is not None:
            tradable_S[~(volume_S > 0.0)] = np.nan
        traded_PS, fill_PS = np.empty_like(self.units_PS), np.empty_like(self.units_PS)
        fees_P, lost_P = np.empty_like(self.cash_P), np.empty_like(self.cash_P)
        kernel.fill_each(
            self.cash_P,
            self.units_PS,
            self.mark_S,
            np.array(order_PS, dtype=np.float64),
            tradable_S,
            FREE_UNITS if volume_S is None else read_only(np.asarray(volume_S, dtype=np.float64)),
            terms,
            traded_PS,
            fill_PS,
            fees_P,
            lost_P,
        )
        self.commission_P += fees_P
        self.slippage_P += lost_P
        commission_PS = np.abs(traded_PS) * fill_PS * terms.commission
        slippage_PS = np.abs(traded_PS * (fill_PS - self.mark_S))
        return Fills(traded_PS, np.where(np.isnan(price_S), np.nan, fill_PS), commission_PS, slippage_PS)

    def _refuse_orders(self, order_PS: Array, price_S: Array) -> None:
        if not np.isfinite(order_PS).all():
            raise BacktestError(
                "an order of NaN or infinite units cannot be booked; order 0 to leave a position alone."
            )
        if self.allow_short:
            return
        after_PS = self.units_PS + np.where(np.isnan(price_S), 0.0, order_PS)
        if (after_PS < 0.0).any():
            p, s = np.argwhere(after_PS < 0.0)[0]
            raise BacktestError(
                f"an order sells {-order_PS[p, s]} units of symbol {s}, but the account holds {self.units_PS[p, s]} and "
                "may not go short. Set allow_short, or order less.",
                symbol=int(s),
            )
