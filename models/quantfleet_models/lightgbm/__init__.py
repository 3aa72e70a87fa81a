"""LightGBM."""

from quantfleet_models.lightgbm.config import LightGBMConfig

__all__ = ["LightGBMConfig"]
