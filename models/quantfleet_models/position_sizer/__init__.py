"""How much capital to hold, learnt from the Sharpe ratio."""

from quantfleet_models.position_sizer.config import PositionSizerConfig

__all__ = ["PositionSizerConfig"]
