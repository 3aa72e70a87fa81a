"""Pretrained forecasters of any series (Chronos, TimesFM), zero-shot or fine-tuned."""

from quantfleet_models.foundation.config import FoundationConfig

__all__ = ["FoundationConfig"]
