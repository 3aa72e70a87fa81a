"""Causal convolutions, one after the other."""

from quantfleet_models.cnn.config import CNNConfig

__all__ = ["CNNConfig"]
