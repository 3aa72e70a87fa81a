"""Scalers beside the engine's standard one: robust and rolling; stored as plain JSON, the same bits in service."""

from quantfleet_data.scaling.robust import RobustScalerConfig
from quantfleet_data.scaling.rolling import RollingScaler, RollingScalerConfig

__all__ = ["RobustScalerConfig", "RollingScaler", "RollingScalerConfig"]
