"""Gradient boosting on histograms out of scikit-learn."""

from quantfleet_models.hist_boosting.config import HistBoostingConfig

__all__ = ["HistBoostingConfig"]
