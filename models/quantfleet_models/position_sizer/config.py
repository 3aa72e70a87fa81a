"""Settings of the position sizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.errors import ConfigError
from quantfleet.training import LossConfig, TorchModelConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PositionSizerConfig"]

Positive = Annotated[int, Field(ge=1)]


@register_model("position_sizer")
@dataclass(frozen=True, kw_only=True, slots=True)
class PositionSizerConfig(TorchModelConfig):
    """Three hidden layers and a sigmoid: which share of capital to hold, 0 to 1, trained on the Sharpe ratio after costs.

    Its answer is a position, which backtests take as it is; return, direction and volatility are forecast beside it from the same
    last layer. It reads the features of the decision bar alone.

    Source: learning positions by their Sharpe ratio: Moody, Wu, Liao and Saffell 1998, Journal of Forecasting 17(5-6).
    """

    widths: tuple[Positive, ...] = (64, 32, 16)
    """Of the hidden layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    loss: LossConfig = field(default_factory=lambda: LossConfig(sharpe=1.0, sharpe_cost_bps=10.0))
    """`loss.sharpe` above 0 is what trains the position."""

    def __post_init__(self) -> None:
        if not self.widths:
            raise ConfigError(
                "position_sizer.widths is empty; give the width of one hidden layer or more, e.g. [64, 32, 16]."
            )
        if not self.loss.sharpe:
            raise ConfigError(
                "position_sizer.loss.sharpe=0 leaves nothing that trains the position; set it above 0, e.g. sharpe: 1.0."
            )

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.position_sizer.model import PositionSizerNetwork

        return PositionSizerNetwork(self, spec)
