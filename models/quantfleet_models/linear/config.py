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

__all__ = ["LogisticConfig", "RidgeConfig"]


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


@register_model("logistic")
@dataclass(frozen=True, kw_only=True, slots=True)
class LogisticConfig(SingleTaskConfig):
    """Logistic regression of every direction on the decision bar's scaled features; returns and volatilities by ridge regression.

    Source: Cox 1958, "The Regression Analysis of Binary Sequences"; Hoerl and Kennard 1970.
    """

    shrinkage: Annotated[float, Field(gt=0)] = 0.01
    """Penalty on squared coefficients as a share of the training rows' summed weights, of both regressions."""
    scaler: ScalerConfig = field(default_factory=StandardScalerConfig)
    """Fitted on training rows, stored with the model; the penalty treats all features alike, so they must be of one size."""

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.linear.model import LogisticModel

        return LogisticModel(self, spec)
