"""Gated recurrent units."""

from quantfleet_models.gru.config import GRUConfig

__all__ = ["GRUConfig"]
