"""The model contract: every family fits, predicts, evaluates, saves and loads the same way.

Shapes: B chunks, C targets of a chunk, T = C + L - 1 rows, F features, H horizons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from quantfleet.contracts.chunk import ChunkBatch, ChunkReader, DataSpec
from quantfleet.contracts.forecast import Forecast
from quantfleet.contracts.split import Segment
from quantfleet.plugins import PluginConfig, PluginRegistry

if TYPE_CHECKING:
    import ray.data

    from quantfleet.storage import Storage
    from quantfleet.training.config import TrainingConfig
    from quantfleet.training.live import LiveSink
    from quantfleet.training.plan import FitPlan, PlanRequest

__all__ = [
    "MODELS",
    "FitContext",
    "FitReport",
    "Model",
    "ModelConfig",
    "TrainingData",
    "TrainingStats",
    "register_model",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStats:
    """Moments of the training segment only; scalers come from here, never from validation or test.

    Shapes: (F,) for features over valid rows, (K,) for labels over known values of masked-in targets.
    """

    feature_mean_F: npt.NDArray[np.float64]
    feature_std_F: npt.NDArray[np.float64]
    label_mean_K: npt.NDArray[np.float64]
    label_std_K: npt.NDArray[np.float64]
    label_known_K: npt.NDArray[np.int64]
    """How many training targets know each label."""
    label_weight_K: npt.NDArray[np.float64]
    """Sum of the sample weights of those targets; equal to `label_known_K` where the chunks were written without weights."""
    targets: Mapping[str, int]
    """Masked-in targets per segment."""

    @property
    def weighted(self) -> bool:
        """Whether the training targets weigh differently."""
        return bool((self.label_weight_K != self.label_known_K).any())

    @property
    def mean_weight(self) -> float:
        """Mean sample weight over the known training labels: weights divided by it have mean 1. 1 where nothing is known."""
        known = float(self.label_known_K.sum())
        return float(self.label_weight_K.sum()) / known if known else 1.0


class TrainingData(Protocol):
    """Chunks of every segment, as stored data; cheap to pass to workers."""

    @property
    def spec(self) -> DataSpec: ...

    @property
    def stats(self) -> TrainingStats: ...

    def chunks(self, segment: Segment) -> int:
        """How many chunks the segment has."""
        ...

    def reader(self, segment: Segment) -> ChunkReader:
        """Chunks by reference: what training workers get, to read the places their plan gives them."""
        ...

    def dataset(self, segment: Segment) -> ray.data.Dataset:
        """Ray Dataset of chunk rows (`chunk_schema`), each chunk once.

        For jobs over whole segments, such as predicting; training workers get a `reader`. The dataset carries references; the
        task that uses the rows reads them itself, so that tensors do not pass through the object store.
        """
        ...

    def read(self, segment: Segment, *, batch_chunks: int = 64) -> Iterator[ChunkBatch]:
        """Stream the segment in this process, every chunk once, in order of chunk_id."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FitContext:
    """Where and how a fit runs."""

    run_name: str
    """Unique per model and data: a fit under the same name resumes from its last checkpoint."""
    storage: Storage
    training: TrainingConfig
    seed: int
    train_callbacks: tuple[Any, ...] = ()
    """Ray Train callbacks: live progress, and the bridge to Ray Tune."""
    live: LiveSink | None = None
    """Where rank 0 says how training goes between two reports; None: nobody listens."""
    profile_folder: str | None = None
    """Folder under the storage root for profiler traces; None: none are made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitReport:
    """What a fit did. `curves` has one row per epoch or boosting report, e.g. {"epoch": 0, "train_loss": ..}."""

    curves: Sequence[Mapping[str, float]] = field(default=())
    seconds: float = 0.0
    resumed_from: int | None = None
    """Epoch or round of the checkpoint a restarted fit went on from; None when it started afresh."""
    parameters: int = 0


class Model(ABC):
    """A forecaster bound to a DataSpec. Not thread-safe. Built by its config, empty until fitted or loaded."""

    spec: DataSpec
    config: ModelConfig

    @abstractmethod
    def fit(self, data: TrainingData, context: FitContext) -> FitReport:
        """Learn from the training segment; validation may choose when to stop; test is never read.

        Raises: TrainingError: the fit failed after its retries were spent.
        """

    @abstractmethod
    def predict(self, batch: ChunkBatch) -> Forecast:
        """Answer for every target of every chunk. Raises: SchemaError: the batch is not of the model's spec."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write weights into an empty directory, as safetensors or the library's own non-executable format."""

    @abstractmethod
    def load(self, directory: Path) -> None:
        """Read what `save` wrote; nothing is unpickled. Raises: SchemaError: the weights are of another model."""

    @property
    def per_symbol(self) -> bool:
        """Whether answers depend on the symbol of a chunk (`symbol_id_B`), so that who asks must say which one it is."""
        return False

    def evaluate(self, data: TrainingData, segment: Segment) -> dict[str, float]:
        """Return mean squared error of returns and directional accuracy per horizon over the segment's known
        targets.
        """
        from quantfleet.evaluation.forecast import score_forecasts  # cycle: evaluation reads contracts

        return score_forecasts(self.spec, ((batch, self.predict(batch)) for batch in data.read(segment)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(PluginConfig):
    """Base config of every model. `name` tells two of one kind apart in a recipe."""

    name: str | None = None

    @property
    def label(self) -> str:
        """What tables and the registry call this model."""
        return self.name or self.kind

    @property
    def baseline(self) -> bool:
        """Naive models are what others must beat; they are never promoted."""
        return False

    @property
    def required_features(self) -> tuple[str, ...]:
        """Feature columns this model reads by name; a run without them fails before it starts."""
        return ()

    def plan(self, data: TrainingData, request: PlanRequest) -> FitPlan:
        """Say what a fit would take, without one and without Ray: small measurements in this process are allowed."""
        from quantfleet.training.plan import FitPlan

        said = "nothing is trained" if self.baseline else "fitted in the driver's process; this family has no estimate"
        return FitPlan(model=self.label, kind=self.kind, note=said)

    @abstractmethod
    def build(self, spec: DataSpec) -> Model:
        """Make an empty model for this data. Raises: ConfigError: config and spec do not fit each other."""


MODELS: PluginRegistry[ModelConfig] = PluginRegistry("model", ModelConfig, command="models")
register_model = MODELS.register
