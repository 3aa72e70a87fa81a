"""DLinear: trend and rest, a linear map each."""

from quantfleet_models.dlinear.config import DLinearConfig

__all__ = ["DLinearConfig"]
