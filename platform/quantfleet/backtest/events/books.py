"""The account of the event engine: what fills, holding and margin calls do to it. All money is moved by the ledger's kernel.

Shapes: S symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.backtest.config import BacktestConfig
from quantfleet.backtest.events.base import Fill
from quantfleet.backtest.events.orders import Chance
from quantfleet.backtest.panel import PriceRows
from quantfleet.backtest.vectorised import terms_of
from quantfleet.ledger.terms import FREE_UNITS

__all__ = ["Books"]

Array = npt.NDArray[np.float64]

_YEAR_US = 365.0 * 86_400e6


class Books:
    """Cash, positions and the log of one account. Not thread-safe; owned by its engine."""

    def __init__(self, prices: PriceRows, config: BacktestConfig) -> None:
        width = len(prices.symbols)
        self.prices = prices
        self.config = config
        self.taker = terms_of(config, prices)
        self.maker = config.costs.terms(
            maker=True, leverage=config.leverage, lot_S=self.taker.lot_S, tick_S=self.taker.tick_S
        )
        self.cash = config.initial_capital
        self.units_S: Array = np.zeros(width)
        self.mark_S: Array = np.zeros(width)
        """Last price of each symbol that the books have seen."""
        self.held = False
        """Whether there is any position."""
        self.watched = (
            config.allow_short
            or config.leverage > 1.0
            or config.maintenance_margin > 0.0
            or prices.funding_TS is not None
        )
        """Whether holding can cost money or end in a margin call; otherwise nothing happens between trades."""
        rates = config.costs.borrow_rate_per_year, config.costs.margin_rate_per_year
        self.accrues = self.watched and (max(rates) > 0.0 or prices.funding_TS is not None)
        self.charges: list[tuple[int, float, float, float]] = []
        """Row, borrow fee, interest and funding."""
        self.fills: list[Fill] = []
        self.markets: list[float] = []
        """Market price of each fill."""
        self.columns: list[int] = []
        """Column of each fill."""
        self.cash_changes: list[tuple[int, float]] = [(0, self.cash)]
        self._order_S, self._price_S = np.zeros(width), np.full(width, np.nan)
        self._traded_S, self._fill_S, self._open_S = np.empty(width), np.empty(width), np.empty(width)

    def see(self, price_S: Array) -> float:
        """Take market prices, NaN keeps the last known one; returns the equity at them."""
        from quantfleet.ledger import kernel

        equity: float = kernel.mark_equity(self.cash, self.units_S, self.mark_S, price_S)
        return equity

    def accrue(self, t: int, elapsed_us: int) -> None:
        """Charge what holding cost since the row before."""
        from quantfleet.ledger import kernel

        costs, funding_TS, years = self.config.costs, self.prices.funding_TS, elapsed_us / _YEAR_US
        fee, interest, funding = kernel.accrue(
            self.cash,
            self.units_S,
            self.mark_S,
            FREE_UNITS if funding_TS is None else funding_TS[t],
            costs.borrow_rate_per_year * years,
            costs.margin_rate_per_year * years,
        )
        if fee or interest or funding:
            self.cash -= fee + interest + funding
            self.charges.append((t, fee, interest, funding))
            self.cash_changes.append((t, self.cash))

    def called(self, equity: float) -> bool:
        """Whether all must be closed at these prices."""
        from quantfleet.ledger import kernel

        return bool(kernel.margin_call(equity, self.units_S, self.mark_S, self.config.maintenance_margin))

    def taker_price(self, s: int, units: float, market: float, volume: float) -> float:
        """What an order of this size would pay or get at this price of the market."""
        from quantfleet.ledger import kernel

        one = np.array([units]), np.array([s]), np.array([market]), np.array([volume])
        return float(kernel.prices_paid(*one, self.taker)[0])

    def book(self, t: int, chances: Sequence[Chance], maker: bool, volume_S: Array) -> None:
        """Fill at once what prices allow, at most one chance of each symbol; writes what was traded into them."""
        from quantfleet.ledger import kernel

        order_S, price_S, traded_S = self._order_S, self._price_S, self._traded_S
        for chance in chances:
            order_S[chance.s], price_S[chance.s] = chance.units, chance.price
        terms: Any = self.maker if maker else self.taker
        self.cash, _, _ = kernel.fill_many(
            self.cash,
            self.units_S,
            self.mark_S,
            order_S,
            price_S,
            volume_S,
            terms,
            traded_S,
            self._fill_S,
            self._open_S,
        )
        for chance in sorted(chances, key=lambda chance: chance.s):
            s = chance.s
            order_S[s], price_S[s] = 0.0, np.nan
            chance.traded = units = float(traded_S[s])
            if units == 0.0:
                continue
            price = float(self._fill_S[s])
            working = chance.working
            self.fills.append(
                Fill(
                    None if working is None else working.id,
                    self.prices.symbols[s],
                    t,
                    units,
                    price,
                    abs(units * price) * terms.commission,
                    maker,
                )
            )
            self.markets.append(price if maker else chance.price)
            self.columns.append(s)
        self.held = bool(self.units_S.any())
        self.cash_changes.append((t, self.cash))
