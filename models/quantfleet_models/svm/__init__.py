"""Support vector machines out of scikit-learn."""

from quantfleet_models.svm.config import SVMConfig

__all__ = ["SVMConfig"]
