"""On which terms an account trades, as plain numbers for the compiled books."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quantfleet.compiled import read_only

__all__ = ["DUST", "FREE_UNITS", "Terms"]

DUST = 1e-9
"""Orders below this share of the equity are rounding noise of sizing: not traded, unless they close a position."""

FREE_UNITS: npt.NDArray[np.float64] = read_only(np.zeros(0))
"""No lots, no ticks."""


class Terms(NamedTuple):
    """Rates are fractions; S symbols."""

    commission: float
    """Fee as a share of the notional at the fill price."""
    slippage: float
    """Distance of a fill from the market price: slippage and half the spread."""
    impact: float
    """How much further a fill is from the market that trades as much as the last bar's whole volume; it grows with the square
    root of that share. 0 for none."""
    leverage: float
    """Most gross exposure as a multiple of the equity."""
    lot_S: npt.NDArray[np.float64]
    """Smallest step of units per symbol; no elements where units are free."""
    tick_S: npt.NDArray[np.float64]
    """Smallest step of prices per symbol; no elements where prices are free."""
