"""Probabilities that come as often as they say, and intervals that hold as often as they promise: fitted on data no model learnt
from."""

from quantfleet.calibration.conformal import ConformalQuantiles
from quantfleet.calibration.directions import IsotonicCalibration, TemperatureCalibration

__all__ = ["ConformalQuantiles", "IsotonicCalibration", "TemperatureCalibration"]
