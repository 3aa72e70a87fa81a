"""The hybrid at five to eight million parameters."""

from quantfleet_models.efficient_hybrid.config import EfficientHybridConfig

__all__ = ["EfficientHybridConfig"]
