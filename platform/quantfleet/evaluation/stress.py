"""What if? Prices of a period, bent into what did not happen, for a strategy whose decisions are kept.

Shapes: T bars, S symbols.

The decisions stay those that were made on the real prices: a scenario shows what they would have cost, not what the model would
have said. Missing bars stay missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.backtest import BarPanel

__all__ = ["SCENARIOS", "StressScenario"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StressScenario:
    """One thing that could go wrong."""

    name: str
    bend: Callable[[BarPanel, int], BarPanel]
    """The panel and a seed to the panel that a strategy is traded on."""
    cost_factor: float = 1.0
    """What fills cost, in multiples of what they cost otherwise."""


def _same(panel: BarPanel, seed: int) -> BarPanel:
    return panel


def _fall(share: float, bars: int) -> Callable[[BarPanel, int], BarPanel]:
    """All prices fall by this share over so many bars in the middle of the period, at equal rates, and stay down."""

    def bend(panel: BarPanel, seed: int) -> BarPanel:
        length, middle = len(panel.time_T), len(panel.time_T) // 2
        steps = np.clip(np.arange(length) - middle + 1, 0, bars)
        close_T = (1.0 - share) ** (steps / bars)
        open_T = np.concatenate([[1.0], close_T[:-1]]) if bars > 1 else close_T  # one bar: it opens below, a gap
        return replace(panel, open_TS=panel.open_TS * open_T[:, None], close_TS=panel.close_TS * close_T[:, None])

    return bend


def _wilder(factor: float) -> Callable[[BarPanel, int], BarPanel]:
    """Every move, overnight and during the bar, is so many times as large on the log scale; where the closes go is kept."""

    def bend(panel: BarPanel, seed: int) -> BarPanel:
        opened, closed = panel.open_TS.copy(), panel.close_TS.copy()
        for s in range(closed.shape[1]):
            known = np.flatnonzero(np.isfinite(closed[:, s]))
            path = np.log(np.column_stack([opened[known, s], closed[known, s]]))
            mean = (path[-1, 1] - path[0, 1]) / max(len(known) - 1, 1)
            straight = path[0, 0] + mean * np.arange(len(known))[:, None]
            bent = np.exp(straight + factor * (path - straight))
            opened[known, s], closed[known, s] = bent[:, 0], bent[:, 1]
        return replace(panel, open_TS=opened, close_TS=closed)

    return bend


def _holes(share: float) -> Callable[[BarPanel, int], BarPanel]:
    """This share of each symbol's bars is missing, at random; the first and the last are kept."""

    def bend(panel: BarPanel, seed: int) -> BarPanel:
        gone: Any = np.random.default_rng(seed).random(panel.close_TS.shape) < share
        gone[[0, -1]] = False
        return replace(
            panel, open_TS=np.where(gone, np.nan, panel.open_TS), close_TS=np.where(gone, np.nan, panel.close_TS)
        )

    return bend


SCENARIOS: tuple[StressScenario, ...] = (
    StressScenario("crash: 20 % in 5 bars", _fall(0.20, 5)),
    StressScenario("gap: 10 % at an open", _fall(0.10, 1)),
    StressScenario("twice the volatility", _wilder(2.0)),
    StressScenario("liquidity gone: 5 times the costs", _same, cost_factor=5.0),
    StressScenario("a tenth of the bars missing", _holes(0.10)),
)
