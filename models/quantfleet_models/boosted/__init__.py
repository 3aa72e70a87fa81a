"""Gradient boosted trees."""

from quantfleet_models.boosted.config import XGBoostConfig

__all__ = ["XGBoostConfig"]
