"""Settings of the pretrained forecasters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from quantfleet.contracts import DataSpec, ScalerConfig, TrainingData, register_model
from quantfleet.errors import ConfigError, nearest
from quantfleet.training import LossConfig, TorchModelConfig
from quantfleet.transforms import IdentityScalerConfig

if TYPE_CHECKING:
    from torch import nn

    from quantfleet.training.module import ScaledForecaster
    from quantfleet.training.plan import FitPlan, PlanRequest
    from quantfleet_models.foundation.model import FoundationModel

__all__ = ["FoundationConfig"]


@register_model("foundation")
@dataclass(frozen=True, kw_only=True, slots=True)
class FoundationConfig(TorchModelConfig):
    """A forecaster that others trained on many series: Chronos-Bolt, Chronos-T5 or TimesFM 2.5, from a folder, never from a hub.

    Each window of one symbol's returns is a series of its own. Zero-shot it is asked as it comes; with `fine_tune` it goes on
    learning from the training segment, under every strategy. Needs the extra `foundation`.

    Source: Ansari et al. 2024, arXiv:2403.07815 (Chronos); Das et al. 2024, arXiv:2310.10688 (TimesFM).
    """

    weights: str = ""
    """Folder with config.json and *.safetensors: a path, or s3://bucket/prefix with credentials from AWS_* in the environment of
    every process that fits. Weights in pickles (.bin, .pt) are refused."""
    return_feature: str = "log_return_1"
    """Feature column with the log return of each bar."""
    series: Literal["price", "return"] = "price"
    """What the forecaster is shown: prices made of the window's returns (its quantiles h bars ahead are then those of the return
    over h bars), or the returns themselves (those over h bars are then added up as if bars were independent)."""
    fine_tune: bool = False
    """Whether the weights go on learning. Chronos-T5 answers by drawing, which has no gradient: it is asked zero-shot only."""
    samples: Annotated[int, Field(ge=2)] = 20
    """Paths that Chronos-T5 draws for a window; the others answer with quantiles and draw none."""
    scaler: ScalerConfig = field(default_factory=IdentityScalerConfig)
    """Must be `none`: the forecaster scales every window itself."""
    loss: LossConfig = field(default_factory=lambda: LossConfig(quantiles=(0.1, 0.5, 0.9)))
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """That of the published fine-tuning is 1e-5 to 1e-3; small, so that little of what was learnt is lost."""

    def __post_init__(self) -> None:
        if not isinstance(self.scaler, IdentityScalerConfig):
            raise ConfigError(
                f"foundation reads returns as they are, and scaler={self.scaler.kind} would change them. Leave scaler out, or "
                "set it to {kind: none}."
            )
        if self.loss.confidence:
            raise ConfigError(
                f"loss.confidence={self.loss.confidence}: a pretrained forecaster has no head that says how sure it is. Leave it "
                "out; `calibrated` around the model gives chances that were checked."
            )

    @property
    def required_features(self) -> tuple[str, ...]:
        return (self.return_feature,)

    def check_spec(self, spec: DataSpec) -> None:
        """Raises: ConfigError: the returns are not among the features."""
        if self.return_feature not in spec.feature_columns:
            raise ConfigError(
                f"model {self.label!r} reads the feature {self.return_feature!r}, which the network's input does not hold."
                f"{nearest(self.return_feature, spec.feature_columns)} Add {{kind: log_return, bars: 1}} to features.extra, keep "
                "it in the selection, or set return_feature."
            )

    def build_network(self, spec: DataSpec) -> nn.Module:
        """Raises: ConfigError: the folder holds no such weights, or windows or horizons are longer than they allow.
        MissingInputError: there is no such folder."""
        from quantfleet_models.foundation.model import FoundationNetwork
        from quantfleet_models.foundation.weights import load_backbone

        self.check_spec(spec)
        return FoundationNetwork(self, spec, load_backbone(self.weights, label=self.label, samples=self.samples))

    def build_forecaster(self, spec: DataSpec) -> ScaledForecaster:
        from quantfleet_models.foundation.model import FoundationForecaster

        return FoundationForecaster(self.build_network(spec), spec, self.loss)

    def build(self, spec: DataSpec) -> FoundationModel:
        from quantfleet_models.foundation.model import FoundationModel

        return FoundationModel(self, spec)

    def plan(self, data: TrainingData, request: PlanRequest) -> FitPlan:
        if self.fine_tune:
            return TorchModelConfig.plan(self, data, request)
        from quantfleet.training.plan import FitPlan

        self.build_network(data.spec)  # a folder that cannot be read is said before anything is launched
        return FitPlan(model=self.label, kind=self.kind, note="zero-shot: nothing is trained")
