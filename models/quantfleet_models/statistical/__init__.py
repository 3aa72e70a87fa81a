"""Classical time-series models of one symbol's returns: ARMA, exponential smoothing, GARCH."""

from quantfleet_models.statistical.config import ARIMAConfig, ETSConfig, GARCHConfig

__all__ = ["ARIMAConfig", "ETSConfig", "GARCHConfig"]
