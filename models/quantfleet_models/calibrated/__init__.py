"""Any model with calibrated probabilities and conformal quantiles around it."""

from quantfleet_models.calibrated.config import CalibratedConfig

__all__ = ["CalibratedConfig"]
