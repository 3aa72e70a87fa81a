"""Naive models: what every other model must beat."""

from quantfleet_models.naive.config import BuyAndHoldConfig, MovingAverageConfig, ZeroReturnConfig

__all__ = ["BuyAndHoldConfig", "MovingAverageConfig", "ZeroReturnConfig"]
