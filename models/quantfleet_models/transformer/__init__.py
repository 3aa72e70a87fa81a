"""Transformer encoder under a causal mask."""

from quantfleet_models.transformer.config import TransformerConfig

__all__ = ["TransformerConfig"]
