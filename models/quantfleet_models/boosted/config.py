"""Settings of XGBoost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import BoostedConfig

if TYPE_CHECKING:
    from quantfleet.contracts import Model, TrainingData
    from quantfleet.training.plan import FitPlan, PlanRequest

__all__ = ["XGBoostConfig"]


@register_model("xgboost")
@dataclass(frozen=True, kw_only=True, slots=True)
class XGBoostConfig(BoostedConfig):
    """XGBoost over the decision bar's features, one tree a round for each head and horizon, trained by ray.train's trainer.

    Source: Chen and Guestrin 2016, arXiv:1603.02754.
    """

    max_depth: Annotated[int, Field(ge=1)] = 4
    external_memory: Literal["auto", "always", "never"] = "auto"
    """Whether a worker keeps its binned features on its disk and reads them page by page in every round. `auto`: where the
    features of the largest share take more than `memory_mb` as they are read, four bytes each. Both ways make the same trees.
    With `training.use_gpu` they stay in memory. What stays there either way is a row's labels, gradients and predictions: some
    20 bytes for each label column."""
    memory_mb: Annotated[int, Field(ge=1)] = 4096
    """Bound of `external_memory: auto`, megabytes a worker."""

    def plan(self, data: TrainingData, request: PlanRequest) -> FitPlan:
        from quantfleet_models.boosted.plan import plan_xgboost

        return plan_xgboost(self, data, request)

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.boosted.model import XGBoostModel

        return XGBoostModel(self, spec)
