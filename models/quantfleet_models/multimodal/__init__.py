"""Streams of features that read each other."""

from quantfleet_models.multimodal.config import MultimodalConfig

__all__ = ["MultimodalConfig"]
