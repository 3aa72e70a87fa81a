"""Settings of the LSTM with attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import TorchModelConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LSTMAttentionConfig"]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


@register_model("lstm_attention")
@dataclass(frozen=True, kw_only=True, slots=True)
class LSTMAttentionConfig(TorchModelConfig):
    """LSTM whose last state looks back at all its states: global attention.

    Source: Hochreiter and Schmidhuber 1997, Neural Computation 9(8); attention: Luong, Pham and Manning 2015, arXiv:1508.04025,
    section 3.1, score "general", with the states of the window itself as the source.
    """

    width: Positive = 48
    """D, size of the state."""
    layers: Positive = 1
    dropout: Share = 0.1
    """Between layers, and before the heads."""

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.lstm_attention.model import LSTMAttentionNetwork

        return LSTMAttentionNetwork(self, spec)
