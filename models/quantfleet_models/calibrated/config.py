"""Settings of calibration around a model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from quantfleet.contracts import DataSpec, ModelConfig, register_model
from quantfleet.errors import ConfigError

if TYPE_CHECKING:
    from quantfleet.contracts import Model

__all__ = ["CalibratedConfig"]


@register_model("calibrated")
@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedConfig(ModelConfig):
    """Any model, its direction probabilities calibrated and its returns given quantiles, both by its errors in the validation
    segment.

    Source: Guo et al. 2017, arXiv:1706.04599; Zadrozny and Elkan 2002; Vovk, Gammerman and Shafer 2005.
    """

    model: ModelConfig
    """What is calibrated. Fits that stop by the validation segment have seen it, so what is fitted here is a little too sure."""
    directions: Literal["temperature", "isotonic", "none"] = "temperature"
    quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)
    """Levels of the conformal quantiles; they replace those of the model. Empty: the model's own are left."""
    spread: Literal["volatility", "constant"] = "volatility"
    """Errors are measured in units of the model's own volatility x root of the horizon, or as they are."""

    def __post_init__(self) -> None:
        if any(low >= high for low, high in pairwise((0.0, *self.quantiles, 1.0))):
            raise ConfigError(f"quantiles={list(self.quantiles)} must rise and lie between 0 and 1.")

    @property
    def baseline(self) -> bool:
        return self.model.baseline

    @property
    def required_features(self) -> tuple[str, ...]:
        return self.model.required_features

    def build(self, spec: DataSpec) -> Model:
        from quantfleet_models.calibrated.model import CalibratedModel

        return CalibratedModel(self, spec)
