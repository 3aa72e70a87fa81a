"""xLSTM: LSTMs with exponential gates and a matrix for a memory."""

from quantfleet_models.xlstm.config import XLSTMConfig

__all__ = ["XLSTMConfig"]
