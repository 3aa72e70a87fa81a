"""LSTM with global attention over its own past."""

from quantfleet_models.lstm_attention.config import LSTMAttentionConfig

__all__ = ["LSTMAttentionConfig"]
