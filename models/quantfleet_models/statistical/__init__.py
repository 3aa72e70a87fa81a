"""Classical time-series models of one symbol's returns: ARMA, exponential smoothing, GARCH, Prophet."""

from quantfleet_models.statistical.config import ARIMAConfig, ETSConfig, GARCHConfig, ProphetConfig

__all__ = ["ARIMAConfig", "ETSConfig", "GARCHConfig", "ProphetConfig"]
