"""What a trade costs: commission on the traded notional, and slippage of the fill price against the trader.

Units: basis points (1 bps = 0.01 %). Both are charged on every fill, buys and sells alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from quantfleet.errors import ConfigError

__all__ = ["BPS", "CostModel"]

BPS = 1e-4
"""One basis point as a fraction."""

Numbers = TypeVar("Numbers", float, npt.NDArray[np.float64])


@dataclass(frozen=True, kw_only=True, slots=True)
class CostModel:
    """Proportional costs of a fill: `price = market * (1 ± slippage)`, `commission = rate * units * price`."""

    commission_bps: float = 10.0
    """Fee as a share of the notional at the fill price; 10 bps is 0.1 %."""
    slippage_bps: float = 10.0
    """How much worse than the market price a fill is: buys pay more, sells get less."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and 0.0 <= value < 1.0 / BPS):
                raise ConfigError(
                    f"costs.{field.name}={value} cannot be a cost: it must be at least 0 and below 10000 bps (100 %). "
                    "A broker that pays you to trade does not exist.",
                    field=field.name,
                )

    @property
    def commission_rate(self) -> float:
        """Commission as a fraction of the notional at the fill price."""
        return self.commission_bps * BPS

    @property
    def slippage_rate(self) -> float:
        """Slippage as a fraction of the market price."""
        return self.slippage_bps * BPS

    def buy_price(self, market: Numbers) -> Numbers:
        """Fill price of a buy when the market trades at `market` (quote currency per unit)."""
        return market * (1.0 + self.slippage_rate)

    def sell_price(self, market: Numbers) -> Numbers:
        """Fill price of a sell when the market trades at `market` (quote currency per unit)."""
        return market * (1.0 - self.slippage_rate)
