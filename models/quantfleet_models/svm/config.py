"""Settings of the support vector machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, ScalerConfig, register_model
from quantfleet.training import SingleTaskConfig
from quantfleet.transforms import StandardScalerConfig

if TYPE_CHECKING:
    from quantfleet.contracts import Model

__all__ = ["SVMConfig"]


@register_model("svm")
@dataclass(frozen=True, kw_only=True, slots=True)
class SVMConfig(SingleTaskConfig):
    """Support vector regression with a Gaussian kernel, one for each head and horizon, on a sample of the training rows; directions
    are fitted as probabilities.

    Source: Drucker et al. 1997, "Support Vector Regression Machines".
    """

    rows: Annotated[int, Field(ge=10)] = 4000
    """At most so many training rows, drawn evenly and without repetition; time grows with their square or worse."""
    cost: Annotated[float, Field(gt=0)] = 0.1
    """C: price of an error beyond the tube. Labels are standardised, so it means the same for each."""
    tube: Annotated[float, Field(ge=0)] = 0.5
    """Errors up to this are free, in standard deviations of the label."""
    kernel_width: Annotated[float, Field(gt=0)] = 1.0
    """exp(-|x - z|^2 / (width x features)): 1 is scikit-learn's gamma `auto`."""
    scaler: ScalerConfig = field(default_factory=StandardScalerConfig)
    """Fitted on training rows, stored with the model; distances want features of one size."""

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.svm.model import SVMModel

        return SVMModel(self, spec)
