"""Settings of the ensembles."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, ModelConfig, register_model
from quantfleet.errors import ConfigError, nearest
from quantfleet_models.parts.members import check_labels

if TYPE_CHECKING:
    from quantfleet.contracts import Model

__all__ = ["EnsembleConfig", "ModelAveragingConfig", "RegimeGatedConfig", "StackingConfig", "VotingConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleConfig(ModelConfig):
    """What ensembles share. Every member is fitted as if it stood alone, under a run of its own."""

    members: tuple[ModelConfig, ...]
    """Two or more, each with a label of its own."""
    agreement: Annotated[float, Field(gt=0.5, le=1)] | None = None
    """Above one half: the ensemble decides for itself. It takes a whole position where members with this share of the weight
    call the same direction at the first horizon, and none where they do not: what they disagree about is not traded. None: it
    forecasts, and the policy decides."""

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ConfigError(f"{self.label}.members holds {len(self.members)}; an ensemble needs two models or more.")
        check_labels(self.label, self.members)

    @property
    def required_features(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for member in self.members for name in member.required_features))


@register_model("voting")
@dataclass(frozen=True, kw_only=True, slots=True)
class VotingConfig(EnsembleConfig):
    """Weighted mean of the members' returns, probabilities and variances, with weights that are given.

    Source: Clemen 1989, "Combining Forecasts": equal weights are hard to beat.
    """

    weights: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """One per member, in their order; empty: all the same."""

    def __post_init__(self) -> None:
        EnsembleConfig.__post_init__(self)
        if self.weights and (len(self.weights) != len(self.members) or not sum(self.weights)):
            raise ConfigError(
                f"{self.label}.weights={list(self.weights)} must hold one weight for each of {len(self.members)} members, not "
                f"all 0."
            )

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.ensemble.model import VotingModel

        return VotingModel(self, spec)


@register_model("model_averaging")
@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAveragingConfig(EnsembleConfig):
    """Weights by how probable the members make the validation returns: exp(log score), per horizon, over rows that do not overlap.

    Source: Hoeting et al. 1999, "Bayesian Model Averaging"; scored out of sample as in Yao et al. 2018, arXiv:1704.02030,
    section 3.4 (pseudo-BMA), normal errors around each forecast with the member's own error variance.
    """

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.ensemble.model import ModelAveragingModel

        return ModelAveragingModel(self, spec)


@register_model("regime_gated")
@dataclass(frozen=True, kw_only=True, slots=True)
class RegimeGatedConfig(EnsembleConfig):
    """Weights by regime: one over the validation error that each member has when a feature lies where it lies at the decision bar.

    Source: Bates and Granger 1969, "The Combination of Forecasts", within each regime.
    """

    feature: str
    """Feature column that tells regimes apart, e.g. realised_volatility_21."""
    quantiles: tuple[float, ...] = (1 / 3, 2 / 3)
    """Where it is cut, as quantiles of the training rows."""
    prior_rows: Annotated[float, Field(ge=0)] = 200.0
    """A regime's errors are drawn to those of all rows as if so many of these were added to it."""

    def __post_init__(self) -> None:
        EnsembleConfig.__post_init__(self)
        if not self.quantiles or any(low >= high for low, high in pairwise((0.0, *self.quantiles, 1.0))):
            raise ConfigError(f"{self.label}.quantiles={list(self.quantiles)} must rise and lie between 0 and 1.")

    @property
    def required_features(self) -> tuple[str, ...]:
        inner = EnsembleConfig.required_features.fget(self)  # type: ignore[attr-defined]
        return tuple(dict.fromkeys((*inner, self.feature)))

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.ensemble.model import RegimeGatedModel

        if self.feature not in spec.feature_columns:
            raise ConfigError(
                f"model {self.label!r} tells regimes by {self.feature!r}, which the feature set does not compute."
                f"{nearest(self.feature, spec.feature_columns)} Add the feature, or name another."
            )
        return RegimeGatedModel(self, spec)


@register_model("stacking")
@dataclass(frozen=True, kw_only=True, slots=True)
class StackingConfig(EnsembleConfig):
    """Weights that explain the training labels best from what members say of rows they were not fitted on, none of them negative.

    Members are fitted once for each fold and once on everything; folds are blocks of time, and what reaches into a block is left
    out.

    Source: Wolpert 1992, "Stacked Generalization"; Breiman 1996, "Stacked Regressions" (no negative weights); purging: Lopez de
    Prado 2018, "Advances in Financial Machine Learning", section 7.4.
    """

    folds: Annotated[int, Field(ge=2)] = 3
    embargo_bars: Annotated[int, Field(ge=0)] = 5
    """Bars after a held-out block that are not fitted on either."""

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.ensemble.model import StackingModel

        return StackingModel(self, spec)
