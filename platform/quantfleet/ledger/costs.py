"""What trading costs: fees, half the spread, slippage and impact on every fill; borrow fee and interest for the time between.

Units: basis points (1 bps = 0.01 %). Fills pay alike on buys and sells; borrow fee and interest accrue with time (actual/365).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from quantfleet.errors import ConfigError
from quantfleet.ledger.terms import FREE_UNITS, Terms

__all__ = ["BPS", "CostModel"]

BPS = 1e-4
"""One basis point as a fraction."""

Numbers = TypeVar("Numbers", float, npt.NDArray[np.float64])


@dataclass(frozen=True, kw_only=True, slots=True)
class CostModel:
    """Costs of a fill: `price = market * (1 ± (spread / 2 + slippage + impact))`, `commission = rate * units * price`.

    Market prices are mids; where they are traded prices already, leave `spread_bps` at 0. A maker's order waits in the book and is
    filled at its own price: it pays `maker_bps`, and none of the rest.
    """

    commission_bps: float = 10.0
    """Fee as a share of the notional at the fill price; 10 bps is 0.1 %. A taker's, where makers pay another."""
    maker_bps: float | None = None
    """Fee of orders that were waiting in the book; None is `commission_bps`."""
    slippage_bps: float = 10.0
    """How much worse than the market price a fill is: buys pay more, sells get less."""
    spread_bps: float = 0.0
    """Quoted spread, ask less bid, as a share of the mid; each fill pays half of it on top of the slippage."""
    impact_bps: float = 0.0
    """How much worse still a fill is that trades as much as the last bar's whole volume; a share p of it pays sqrt(p) of this.
    Needs bars with volume. Source: the square-root law, Toth et al. 2011, arXiv:1105.1694."""
    borrow_bps_per_year: float = 0.0
    """Fee for borrowed units: a share of the value of each short a year, for the time that it is held."""
    margin_bps_per_year: float = 0.0
    """Interest on money owed: cash below zero, as positions beyond the capital (`backtest.leverage`) take it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if not (math.isfinite(value) and 0.0 <= value < 1.0 / BPS):
                raise ConfigError(
                    f"costs.{field.name}={value} cannot be a cost: it must be at least 0 and below 10000 bps (100 %). "
                    "A broker that pays you to trade does not exist.",
                    field=field.name,
                )
        if self.slippage_rate >= 1.0:
            raise ConfigError(
                f"costs.slippage_bps={self.slippage_bps} and half of costs.spread_bps={self.spread_bps} take the whole price of "
                "a sale; together they must stay below 10000 bps.",
                field="spread_bps",
            )

    @property
    def commission_rate(self) -> float:
        """Commission as a fraction of the notional at the fill price."""
        return self.commission_bps * BPS

    @property
    def slippage_rate(self) -> float:
        """Distance of a fill from the market price as a fraction of it: slippage and half the spread."""
        return (self.slippage_bps + 0.5 * self.spread_bps) * BPS

    @property
    def borrow_rate_per_year(self) -> float:
        """Borrow fee as a fraction of a short's value a year."""
        return self.borrow_bps_per_year * BPS

    @property
    def margin_rate_per_year(self) -> float:
        """Interest as a fraction of the money owed a year."""
        return self.margin_bps_per_year * BPS

    def terms(
        self,
        *,
        maker: bool = False,
        leverage: float = 1.0,
        lot_S: npt.NDArray[np.float64] = FREE_UNITS,
        tick_S: npt.NDArray[np.float64] = FREE_UNITS,
    ) -> Terms:
        """The same for the compiled books.

        Args:
            maker: terms of orders that were waiting in the book.
            lot_S, tick_S: smallest steps of units and prices; no elements where there are none.
        """
        maker_bps = self.commission_bps if self.maker_bps is None else self.maker_bps
        return Terms(
            commission=maker_bps * BPS if maker else self.commission_rate,
            slippage=0.0 if maker else self.slippage_rate,
            impact=0.0 if maker else self.impact_bps * BPS,
            leverage=leverage,
            lot_S=lot_S,
            tick_S=tick_S,
        )

    def buy_price(self, market: Numbers) -> Numbers:
        """Fill price of a buy when the market trades at `market` (quote currency per unit)."""
        return market * (1.0 + self.slippage_rate)

    def sell_price(self, market: Numbers) -> Numbers:
        """Fill price of a sell when the market trades at `market` (quote currency per unit)."""
        return market * (1.0 - self.slippage_rate)
