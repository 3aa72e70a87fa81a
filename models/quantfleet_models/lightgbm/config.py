"""Settings of LightGBM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import BoostedConfig

if TYPE_CHECKING:
    from quantfleet.contracts import Model

__all__ = ["LightGBMConfig"]


@register_model("lightgbm")
@dataclass(frozen=True, kw_only=True, slots=True)
class LightGBMConfig(BoostedConfig):
    """LightGBM over the decision bar's features, one tree a round for each head and horizon, trained by ray.train's trainer.

    A worker streams its share; what it keeps of the features is their bins, one byte a value up to 256 of them. Source: Ke
    et al. 2017, "LightGBM: A Highly Efficient Gradient Boosting Decision Tree".
    """

    leaves: Annotated[int, Field(ge=2)] = 15
    max_depth: Annotated[int, Field(ge=1)] = 6
    sample_rows: Annotated[int, Field(ge=100)] = 50_000
    """Rows of a worker's share by which bins are found; held in memory for that time, 16 bytes a value."""

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.lightgbm.model import LightGBMModel

        return LightGBMModel(self, spec)
