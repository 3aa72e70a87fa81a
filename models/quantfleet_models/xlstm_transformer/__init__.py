"""xLSTM and Transformer side by side, each reading the other."""

from quantfleet_models.xlstm_transformer.config import XLSTMTransformerConfig

__all__ = ["XLSTMTransformerConfig"]
