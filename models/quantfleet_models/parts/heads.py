"""What every forecaster ends in: one linear layer per head on one row that sums the window up.

Shapes: N windows, D width, H horizons, Q quantile levels.
"""

from __future__ import annotations

from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet.training import LossConfig

__all__ = ["ForecastHeads"]


class ForecastHeads(nn.ModuleDict):
    """Linear heads return, direction, volatility; quantiles where `loss.quantiles` names levels, confidence where
    `loss.confidence` counts.

    What the numbers mean (standardised return and volatility, logit, free numbers for quantiles) is said at `ScaledForecaster`.
    """

    def __init__(self, width: int, spec: DataSpec, loss: LossConfig) -> None:
        H, self.levels = len(spec.horizons_bars), len(loss.quantiles)
        super().__init__({name: nn.Linear(width, H) for name in ("return", "direction", "volatility")})
        if self.levels:
            self["quantiles"] = nn.Linear(width, H * self.levels)
        if loss.confidence:
            self["confidence"] = nn.Linear(width, H)

    def forward(self, row_ND: Tensor) -> dict[str, Tensor]:
        """(N, D) to each (N, H); quantiles (N, H, Q)."""
        heads: dict[str, Tensor] = {name: head(row_ND) for name, head in self.items()}
        if "quantiles" in heads:
            heads["quantiles"] = heads["quantiles"].reshape(len(row_ND), -1, self.levels)
        return heads
