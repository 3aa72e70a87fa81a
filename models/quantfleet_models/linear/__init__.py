"""Linear models out of scikit-learn."""

from quantfleet_models.linear.config import LogisticConfig, RidgeConfig

__all__ = ["LogisticConfig", "RidgeConfig"]
