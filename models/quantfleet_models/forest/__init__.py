"""Random forests out of scikit-learn."""

from quantfleet_models.forest.config import RandomForestConfig

__all__ = ["RandomForestConfig"]
