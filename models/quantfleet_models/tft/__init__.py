"""Temporal Fusion Transformer."""

from quantfleet_models.tft.config import TFTConfig

__all__ = ["TFTConfig"]
