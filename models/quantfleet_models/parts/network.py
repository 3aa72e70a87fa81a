"""How a family becomes a forecaster: a body that sums windows up, and the heads behind it.

Shapes: N windows, L look-back bars, F features, D width, S steps ahead, H horizons.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet.errors import SchemaError
from quantfleet.training import LossConfig
from quantfleet_models.parts.heads import ForecastHeads

__all__ = ["ChannelNetwork", "SequenceNetwork", "WindowNetwork"]


class WindowNetwork(nn.Module):
    """Windows of standardised features to heads, by one row that sums the window up.

    A subclass builds its body after `super().__init__` and says with `summary` what a window comes to.

    Args:
        width: of the summary.
        dropout: of the summary, before the heads.
    """

    def __init__(self, spec: DataSpec, loss: LossConfig, *, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.window = (spec.lookback_bars, spec.features)
        self.heads = ForecastHeads(width, spec, loss)
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def summary(self, x_NLF: Tensor) -> Tensor:
        """(N, L, F) to (N, D)."""

    @abstractmethod
    def shared_parameters(self) -> Sequence[nn.Parameter]:
        """Parameters of the last layer that all heads read, for `loss.balance: gradnorm`."""

    def check_windows(self, x_NLF: Tensor) -> None:
        """Raises: SchemaError: windows of another length or of other features."""
        if tuple(x_NLF.shape[1:]) != self.window:
            raise SchemaError(
                f"{type(self).__name__} was built for windows of {self.window[0]} bars x {self.window[1]} features and got "
                f"{' x '.join(map(str, x_NLF.shape[1:]))}. Build it from the DataSpec of these data."
            )

    def forward(self, x_NLF: Tensor) -> dict[str, Tensor]:
        """Raises: SchemaError: windows of another length or of other features."""
        self.check_windows(x_NLF)
        heads: dict[str, Tensor] = self.heads(self.dropout(self.summary(x_NLF)))
        return heads


class SequenceNetwork(WindowNetwork):
    """A body that makes a hidden row of every bar, each from this bar and those before it; the last row sums the window up."""

    @abstractmethod
    def hidden(self, x_NLF: Tensor) -> Tensor:
        """(N, L, F) to (N, L, D); row t depends on rows 0..t only."""

    def summary(self, x_NLF: Tensor) -> Tensor:
        return self.hidden(x_NLF)[:, -1]


class ChannelNetwork(WindowNetwork):
    """A published forecaster of channels inside a forecaster of labels.

    `core` is the architecture as published: it maps (N, L, F) to the next S values of every channel, (N, S, F). Labels are not
    the future of a feature, so its output is not judged as one here: the S x F numbers are what the window comes to, and the
    heads read all of them. On benchmarks of forecasting the same core is trained on the channels themselves (`bench/forecast`).

    Args:
        core: made for windows of the spec, for `steps` steps.
        last: the core's last layers, by which its output is made.
    """

    def __init__(
        self,
        spec: DataSpec,
        loss: LossConfig,
        *,
        core: nn.Module,
        last: Sequence[nn.Module],
        steps: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, loss, width=steps * spec.features, dropout=dropout)
        self.core = core
        self._last = tuple(last)  # in a tuple, so that they are not registered a second time

    def summary(self, x_NLF: Tensor) -> Tensor:
        forecast_NSF: Tensor = self.core(x_NLF)
        return torch.flatten(forecast_NSF, 1)

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(p for layer in self._last for p in layer.parameters())
