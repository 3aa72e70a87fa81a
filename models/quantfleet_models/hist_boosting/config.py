"""Settings of scikit-learn's gradient boosting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import SingleTaskConfig

if TYPE_CHECKING:
    from quantfleet.contracts import Model

__all__ = ["HistBoostingConfig"]


@register_model("hist_boosting")
@dataclass(frozen=True, kw_only=True, slots=True)
class HistBoostingConfig(SingleTaskConfig):
    """Gradient boosting on histograms over the decision bar's features, one booster for each head and horizon; no library beyond
    scikit-learn. For data that fit one machine; xgboost and lightgbm read shards.

    Source: Friedman 2001, "Greedy Function Approximation"; histograms as in Ke et al. 2017, "LightGBM".
    """

    rounds: Annotated[int, Field(ge=1)] = 200
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    leaves: Annotated[int, Field(ge=2)] = 31
    min_leaf_rows: Annotated[int, Field(ge=1)] = 50
    column_sample: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of the features that each split may use."""
    l2: Annotated[float, Field(ge=0)] = 5.0
    max_bins: Annotated[int, Field(ge=2, le=255)] = 255
    """Into how many values a feature is rounded, those that are missing apart."""
    patience_rounds: Annotated[int, Field(ge=1)] = 30
    """Rounds without a lower validation error after which a booster stops. Its last trees stay."""

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.hist_boosting.model import HistBoostingModel

        return HistBoostingModel(self, spec)
