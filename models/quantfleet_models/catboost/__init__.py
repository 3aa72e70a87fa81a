"""CatBoost; needs the extra `catboost`."""

from quantfleet_models.catboost.config import CatBoostConfig

__all__ = ["CatBoostConfig"]
