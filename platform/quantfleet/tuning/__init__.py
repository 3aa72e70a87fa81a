"""Search on Ray Tune over Ray Train."""

from quantfleet.tuning.config import ParameterRange, SearchConfig
from quantfleet.tuning.sensitivity import Sensitivity, SettingIndex, settings_sensitivity, sobol_indices

__all__ = [
    "ParameterRange",
    "SearchConfig",
    "Sensitivity",
    "SettingIndex",
    "settings_sensitivity",
    "sobol_indices",
]
