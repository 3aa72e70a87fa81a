"""Settings of the random forest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import SingleTaskConfig

if TYPE_CHECKING:
    from quantfleet.contracts import Model

__all__ = ["RandomForestConfig"]


@register_model("random_forest")
@dataclass(frozen=True, kw_only=True, slots=True)
class RandomForestConfig(SingleTaskConfig):
    """A random forest over the decision bar's features; a tree's leaf answers every head and horizon.

    Source: Breiman 2001, "Random Forests".
    """

    trees: Annotated[int, Field(ge=1)] = 200
    max_depth: Annotated[int, Field(ge=1)] = 8
    min_leaf_rows: Annotated[int, Field(ge=1)] = 50
    column_sample: Annotated[float, Field(gt=0, le=1)] = 0.33
    """Share of the features that each split may use."""
    subsample: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Rows drawn for each tree, with replacement, as a share of all."""

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.forest.model import RandomForestModel

        return RandomForestModel(self, spec)
