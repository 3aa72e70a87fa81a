"""What trading costs: commission, half the spread and slippage on every fill, and a borrow fee on open shorts.

Units: basis points (1 bps = 0.01 %). Fills pay alike on buys and sells; the borrow fee accrues with time (actual/365).
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
    """Costs of a fill: `price = market * (1 ± (spread / 2 + slippage))`, `commission = rate * units * price`.

    Market prices are mids; where they are traded prices already, leave `spread_bps` at 0.
    """

    commission_bps: float = 10.0
    """Fee as a share of the notional at the fill price; 10 bps is 0.1 %."""
    slippage_bps: float = 10.0
    """How much worse than the market price a fill is: buys pay more, sells get less."""
    spread_bps: float = 0.0
    """Quoted spread, ask less bid, as a share of the mid; each fill pays half of it on top of the slippage."""
    borrow_bps_per_year: float = 0.0
    """Fee for borrowed units: a share of the value of each short a year, for the time that it is held."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
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

    def terms(self) -> Terms:
        """The same for the compiled books: no leverage, units and prices free."""
        return Terms(
            commission=self.commission_rate,
            slippage=self.slippage_rate,
            impact=0.0,
            leverage=1.0,
            lot_S=FREE_UNITS,
            tick_S=FREE_UNITS,
        )

    def buy_price(self, market: Numbers) -> Numbers:
        """Fill price of a buy when the market trades at `market` (quote currency per unit)."""
        return market * (1.0 + self.slippage_rate)

    def sell_price(self, market: Numbers) -> Numbers:
        """Fill price of a sell when the market trades at `market` (quote currency per unit)."""
        return market * (1.0 - self.slippage_rate)
