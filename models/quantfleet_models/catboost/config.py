"""Settings of CatBoost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.errors import ConfigError
from quantfleet.training import SingleTaskConfig

if TYPE_CHECKING:
    from quantfleet.contracts import Model

__all__ = ["CatBoostConfig"]


@register_model("catboost")
@dataclass(frozen=True, kw_only=True, slots=True)
class CatBoostConfig(SingleTaskConfig):
    """CatBoost over the decision bar's features: symmetric trees whose leaves answer every head and horizon at once.

    Needs the extra `catboost`. Source: Prokhorenkova et al. 2018, arXiv:1706.09516.
    """

    rounds: Annotated[int, Field(ge=1)] = 300
    depth: Annotated[int, Field(ge=1, le=16)] = 5
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    subsample: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of the rows that each round sees."""
    column_sample: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of the features that each level of a tree may use. Not on a GPU, where CatBoost looks at all of them."""
    l2: Annotated[float, Field(ge=0)] = 5.0
    patience_rounds: Annotated[int, Field(ge=1)] = 30
    """Rounds without a lower validation error after which the fit stops; the best round's trees are kept."""

    def build(self, spec: DataSpec) -> Model:
        """Raises: ConfigError: the package catboost is not installed."""
        try:
            from quantfleet_models.catboost.model import CatBoostModel
        except ModuleNotFoundError as error:
            if error.name != "catboost":
                raise
            raise ConfigError(
                f"model {self.label!r} needs the package catboost: pip install 'quantfleet[catboost]' here and on every worker."
            ) from error
        return CatBoostModel(self, spec)
