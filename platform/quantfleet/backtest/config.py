"""What an engine is told besides prices and weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from quantfleet.errors import ConfigError
from quantfleet.ledger import CostModel

__all__ = ["BacktestConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BacktestConfig:
    """The account a strategy trades on. No leverage: positions never take more than the capital."""

    initial_capital: float = 1_000_000.0
    """Cash at the start, in the quote currency of the prices."""
    costs: CostModel = field(default_factory=CostModel)
    allow_short: bool = False
    """Whether negative weights are allowed; a short takes as much capital as a long of its size."""
    rebalance_band: float = 0.0
    """Smallest change of weight that trades (0.01 is 1 % of the equity). A target of exactly 0 always closes."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.initial_capital) and self.initial_capital > 0.0):
            raise ConfigError(
                f"backtest.initial_capital={self.initial_capital} is no capital to trade with; give an amount above 0.",
                field="initial_capital",
            )
        if not 0.0 <= self.rebalance_band < 1.0:
            raise ConfigError(
                f"backtest.rebalance_band={self.rebalance_band} must be at least 0 and below 1: it is a change of "
                "weight, and 0.01 means 1 % of the equity.",
                field="rebalance_band",
            )
