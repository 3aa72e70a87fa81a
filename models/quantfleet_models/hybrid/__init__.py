"""Small hybrid: causal convolution + LSTM + Transformer."""

from quantfleet_models.hybrid.config import HybridConfig

__all__ = ["HybridConfig"]
