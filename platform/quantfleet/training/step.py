"""The module that strategies wrap: from a minibatch to a loss, so that everything that learns goes through one forward pass.

Shapes: N windows, L look-back bars, F features, K label columns.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from quantfleet.contracts import TrainingStats
from quantfleet.training.module import ScaledForecaster
from quantfleet.training.objective import MultiTaskLoss

__all__ = ["Asked", "TrainingModule"]

Asked = Literal["loss", "each", "judged"]


class TrainingModule(nn.Module):
    """A forecaster and its loss."""

    def __init__(self, forecaster: ScaledForecaster, stats: TrainingStats, *, slots: int) -> None:
        super().__init__()
        self.forecaster = forecaster
        self.objective = MultiTaskLoss(forecaster.loss, stats, slots)
        self._shared = forecaster.shared_parameters() if forecaster.loss.balance == "gradnorm" else ()

    def forward(self, x_NLF: Tensor, y_NK: Tensor, mask_N: Tensor, weight_N: Tensor, asked: Asked = "loss") -> Tensor:
        """What is asked of the windows, always through this one method, which strategies wrap.

        Returns: "loss": the loss, a scalar. "each": the loss, then that of every single window without gradient, (1 + N,).
            "judged": what the validation loss is made of (`MultiTaskLoss.validation_sums`).
        """
        heads = {name: head.float() for name, head in self.forecaster(x_NLF).items()}
        targets = self.forecaster.targets(y_NK)
        if asked == "judged":
            return self.objective.validation_sums(heads, targets, mask_N)
        auxiliary = heads.pop("auxiliary", None)
        loss: Tensor = self.objective(heads, targets, mask_N, weight_N, self._shared)
        if auxiliary is not None:
            loss = loss + auxiliary
        if asked == "loss":
            return loss
        with torch.no_grad():
            single_N = self.objective.window_losses(heads, targets, mask_N)
        return torch.cat([loss[None], single_N])
