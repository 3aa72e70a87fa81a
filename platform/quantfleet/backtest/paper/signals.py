"""A model as a strategy: its forecast at every bar, through the position policy, to target weights.

Shapes: S symbols.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from quantfleet.backtest.events.base import Decision, Strategy
from quantfleet.backtest.events.view import MarketView
from quantfleet.backtest.policy import PositionPolicy
from quantfleet.errors import BacktestError

__all__ = ["ForecastStrategy"]

Answers = Mapping[str, tuple[float, float]]
"""By symbol: expected return over the horizon, a fraction, and position in [-1, 1]; NaN for none. See `PositionPolicy`."""


class ForecastStrategy(Strategy):
    """Row by row what `PositionPolicy.target_weights` says of a whole table: the same weights at the same bars."""

    def __init__(self, policy: PositionPolicy, answer: Callable[[MarketView], Answers]) -> None:
        """Take a policy and what forecasts: called once a row with what is known, it may leave symbols out."""
        self.policy = policy
        self.answer = answer
        self._sides: dict[str, list[float]] = {}
        """The last `horizon_bars` decisions of each symbol."""
        self._decided: dict[str, float] = {}
        """Weight last decided of each symbol."""

    def generate_signals(self, view: MarketView) -> Decision:
        """Raises: BacktestError: a position beyond its whole share."""
        policy, weights = self.policy, {}
        listed = max(sum(view.price(s) > 0.0 for s in range(len(view.symbols))), 1)
        for symbol, (expected, position) in self.answer(view).items():
            if abs(position) > 1.0:
                raise BacktestError(
                    f"position {position} of {symbol} at {view.now} is beyond its whole share, [-1, 1]."
                )
            wanted = position if math.isnan(expected) or not math.isnan(position) else self._held(symbol, expected)
            if math.isnan(wanted):
                continue
            weight = (max(wanted, 0.0) if policy.mode == "long_flat" else wanted) / listed
            if policy.rebalance == "every_bar" or weight != self._decided.get(symbol):
                weights[symbol] = weight
            self._decided[symbol] = weight
        return weights or None

    def _held(self, symbol: str, expected: float) -> float:
        """Mean of the last decisions, this one included."""
        side = math.copysign(1.0, expected) if self.policy.beyond(expected) else 0.0
        if self.policy.mode == "long_flat":
            side = max(side, 0.0)
        sides = [*self._sides.get(symbol, []), side][-self.policy.horizon_bars :]
        self._sides[symbol] = sides
        return sum(sides) / self.policy.horizon_bars

    def state(self) -> dict[str, object]:
        return {"sides": self._sides, "decided": self._decided}

    def restore(self, state: Mapping[str, object]) -> None:
        sides, decided = state["sides"], state["decided"]
        assert isinstance(sides, dict)
        assert isinstance(decided, dict)
        self._sides, self._decided = dict(sides), dict(decided)
