"""Temporal convolutional network: residual blocks, dilation doubling."""

from quantfleet_models.tcn.config import TCNConfig

__all__ = ["TCNConfig"]
