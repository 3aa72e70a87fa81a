"""Settings of the linear models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, ScalerConfig, register_model
from quantfleet.training import SingleTaskConfig
from quantfleet.transforms import StandardScalerConfig

if TYPE_CHECKING:
    from quantfleet.contracts import Model

__all__ = ["RidgeConfig"]


@register_model("ridge")
@dataclass(frozen=True, kw_only=True, slots=True)
class RidgeConfig(SingleTaskConfig):
    """Ridge regression of every head and horizon on the decision bar's scaled features; directions as probabilities.

    Source: Hoerl and Kennard 1970, "Ridge Regression: Biased Estimation for Nonorthogonal Problems".
    """

    shrinkage: Annotated[float, Field(ge=0)] = 0.01
    """Penalty on squared coefficients as a share of the training rows' summed weights, so that it means the same on more data."""
    scaler: ScalerConfig = field(default_factory=StandardScalerConfig)
    """Fitted on training rows, stored with the model; the penalty treats all features alike, so they must be of one size."""

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.linear.model import RidgeModel

        return RidgeModel(self, spec)
