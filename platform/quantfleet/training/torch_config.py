"""Base config of every torch model: how it is optimised; families add their architecture."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from quantfleet.contracts import (
    AugmentationConfig,
    Augmenter,
    DataSpec,
    ModelConfig,
    ScalerConfig,
    SelectorConfig,
    TrainingData,
)
from quantfleet.errors import ConfigError
from quantfleet.training.loss import LossConfig
from quantfleet.transforms import InputTransform, StandardScalerConfig, output_units

if TYPE_CHECKING:
    from torch import nn

    from quantfleet.training.module import ScaledForecaster
    from quantfleet.training.plan import FitPlan, PlanRequest
    from quantfleet.training.torch_model import TorchModel

__all__ = ["TorchModelConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchModelConfig(ModelConfig):
    """What torch models share: how they are optimised, and what is done to their inputs.

    Importing a config does not import torch.
    """

    epochs: Annotated[int, Field(ge=1)] = 10
    batch_windows: Annotated[int, Field(ge=1)] = 512
    """Windows of one step over all workers together; must divide by training.shards, which are the most workers by default."""
    buffer_chunks: Annotated[int, Field(ge=1)] = 64
    """Chunks that a worker holds for each of its shards and shuffles within."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    patience_epochs: Annotated[int, Field(ge=1)] = 3
    """Epochs without a lower validation loss after which the fit stops."""
    schedule: Literal["constant", "cosine", "cosine_restarts", "one_cycle"] = "cosine"
    """How the learning rate goes from its peak, `learning_rate`, step by step."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs, or parts of one, in which the learning rate rises to its peak."""
    restart_epochs: Annotated[int, Field(ge=1)] = 10
    """Length of the first cycle of `cosine_restarts`."""
    restart_growth: Annotated[int, Field(ge=1)] = 2
    """Each cycle is so many times as long as the one before."""
    fused: bool = True
    """AdamW in one compiled pass over all weights, not one per tensor and operation."""
    average: Literal["none", "ema", "swa"] = "none"
    """Judge and keep an average of the weights: exponential over steps, or plain over the last epochs."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """How much of the exponential average a step leaves."""
    swa_from: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """Share of the epochs after which the plain average begins."""
    loss: LossConfig = field(default_factory=LossConfig)
    scaler: ScalerConfig = field(default_factory=StandardScalerConfig)
    """Fitted on training rows, stored with the model, applied alike wherever it answers."""
    selection: SelectorConfig | None = None
    """Which of the scaled features the network reads, or what they are turned into; None: all of them."""
    selection_label: str | None = None
    """Label column that `selection` judges by, e.g. return_5; None: the return at the first horizon."""
    augmentations: tuple[AugmentationConfig, ...] = ()
    """Done to training windows after scaling and selection, one after the other; never to windows that are judged."""

    def check_shards(self, shards: int) -> None:
        """Raises: ConfigError: a step cannot be shared evenly among so many shards."""
        if self.batch_windows % shards:
            raise ConfigError(
                f"{self.label}.batch_windows={self.batch_windows} does not divide by training.shards={shards} "
                f"(the most workers when not given); use {max(1, self.batch_windows // shards) * shards}."
            )

    def augmenter(self, data: TrainingData, inputs: InputTransform, seed: int) -> Augmenter | None:
        """What changes training windows; None: nothing does."""
        if not self.augmentations:
            return None
        # scaled features have centre 0 and scale 1; what a selection makes of them (components) has units of its own
        centre_G, scale_G = (None, None) if inputs.selection is None else output_units(data, inputs)
        return Augmenter(
            self.augmentations, seed=seed, chunk_bars=data.spec.chunk_bars, centre_F=centre_G, scale_F=scale_G
        )

    def plan(self, data: TrainingData, request: PlanRequest) -> FitPlan:
        from quantfleet.training.torch_plan import plan_torch

        return plan_torch(self, data, request)

    @abstractmethod
    def build_network(self, spec: DataSpec) -> nn.Module:
        """Make the network: scaled features (N, L, F) to {"return", "direction", "volatility"}, each (N, H).

        `spec` is that of the network's input: after the selection, and without the bars that the scaler reads as its past.
        It must be causal: the answer for a window may use all of its rows, and windows end at the decision bar.
        What `loss.quantiles` and `loss.balance: gradnorm` ask beyond that is said at `ScaledForecaster`.
        """

    def build_forecaster(self, spec: DataSpec) -> ScaledForecaster:
        """Make the network with its label scales. Raises: ConfigError: it lacks what the loss asks of it."""
        from quantfleet.training.module import ScaledForecaster

        return ScaledForecaster(self.build_network(spec), spec, self.loss)

    def build(self, spec: DataSpec) -> TorchModel:
        from quantfleet.training.torch_model import TorchModel

        return TorchModel(self, spec)
