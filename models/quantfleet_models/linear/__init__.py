"""Linear models out of scikit-learn."""

from quantfleet_models.linear.config import RidgeConfig

__all__ = ["RidgeConfig"]
