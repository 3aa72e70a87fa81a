"""Models of the decision bar behind the Model contract; families add how they fit, answer and store.

Shapes: B chunks, C targets, G selected features, H horizons, K = 3 H label columns, R = B x C rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from quantfleet.contracts import ChunkBatch, DataSpec, FitContext, Forecast, Model, ScalerConfig, Segment, TrainingData
from quantfleet.errors import ConfigError, SchemaError
from quantfleet.training.row_config import RowModelConfig
from quantfleet.training.rows import LabelScale, RowReader, decision_rows
from quantfleet.transforms import InputTransform
from quantfleet.transforms.inputs import label_place

__all__ = ["RowModel", "RowTask", "check_features", "library_says", "read_arrays", "write_arrays"]


@dataclass(frozen=True, kw_only=True)
class RowTask:
    """All that a fit needs, sent to workers."""

    config: Any
    """The family's own config."""
    spec: DataSpec
    inputs: InputTransform
    scale: LabelScale
    seed: int
    threads: int
    use_gpu: bool
    readers: dict[Segment, RowReader]


class RowModel(Model):
    """Answers K standardised labels from G features; directions are fitted as probabilities."""

    scaler: ScalerConfig | None = None
    """Families that need scaled features name a scaler; scaling changes no split of a tree."""

    def __init__(self, config: RowModelConfig, spec: DataSpec) -> None:
        self.config: RowModelConfig = config
        self.spec = spec
        self.inputs = InputTransform(spec)
        self.scale: LabelScale | None = None
        """None until fitted or loaded."""
        if config.selection is not None:
            label_place(spec, config.selection_label)

    @abstractmethod
    def _answer(self, rows_RG: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        """Standardised labels, (R, K)."""

    @abstractmethod
    def _save_weights(self, directory: Path) -> None:
        """Write what was fitted, in a format that holds no code."""

    @abstractmethod
    def _load_weights(self, directory: Path, features: int) -> None:
        """Read what `_save_weights` wrote. Raises: SchemaError: it is of other data, or damaged."""

    @property
    def per_symbol(self) -> bool:
        return self.inputs.per_symbol

    def predict(self, batch: ChunkBatch) -> Forecast:
        if self.scale is None:
            raise SchemaError(f"model {self.config.label!r} is empty: fit or load it before it is asked.")
        spec, H = self.spec, len(self.spec.horizons_bars)
        if batch.x_BTF.shape[2] != spec.features:
            raise SchemaError(
                f"model {self.config.label!r} reads {spec.features} features, got {batch.x_BTF.shape[2]}."
            )
        rows_RG = decision_rows(batch, self.inputs)
        out_RK = self.scale.restore(self._answer(rows_RG).reshape(len(rows_RG), -1))
        out_BCK = out_RK.reshape(*batch.mask_BC.shape, -1).astype(np.float32)
        up_BCH = np.clip(out_BCK[..., H : 2 * H], 1e-3, 1 - 1e-3)
        return Forecast(
            return_BCH=out_BCK[..., :H],
            direction_logit_BCH=np.log(up_BCH / (1 - up_BCH)),
            volatility_BCH=np.maximum(out_BCK[..., 2 * H :], 0.0),
        )

    def save(self, directory: Path) -> None:
        if self.scale is None:
            raise SchemaError(f"model {self.config.label!r} is empty: fit it before it is saved.")
        self.inputs.save(directory)
        self.scale.save(directory)
        self._save_weights(directory)

    def load(self, directory: Path) -> None:
        inputs = InputTransform.load(
            directory, self.spec, scaler=self.scaler is not None, selection=self.config.selection is not None
        )
        scale = LabelScale.load(directory, len(self.spec.label_columns))
        self._load_weights(directory, inputs.spec.features)
        self.inputs, self.scale = inputs, scale

    def _task(self, data: TrainingData, context: FitContext) -> RowTask:
        """What workers need. Raises: SchemaError, ConfigError: the data are others, or hold nothing to learn or stop by."""
        if data.spec != self.spec:
            raise SchemaError(f"model {self.config.label!r} was built for other data than it is to be fitted on.")
        segments: tuple[Segment, ...] = ("train", "validation")
        for segment in segments:
            if not data.stats.targets[segment]:
                raise ConfigError(
                    f"model {self.config.label!r} cannot be fitted: the {segment} segment has no target that counts. Widen it "
                    "in the recipe's split."
                )
        inputs = InputTransform.fit(
            data, scaler=self.scaler, selection=self.config.selection, label=self.config.selection_label
        )
        scale = LabelScale.of(data.stats)
        return RowTask(
            config=self.config,
            spec=self.spec,
            inputs=inputs,
            scale=scale,
            seed=context.seed,
            threads=max(1, int(context.training.cpus_per_worker)),
            use_gpu=context.training.use_gpu,
            readers={s: RowReader(data.reader(s), inputs, scale, self._mean_weight(data, s)) for s in segments},
        )

    def _mean_weight(self, data: TrainingData, segment: Segment) -> float | None:
        """Training rows count by their sample weights, those that judge all the same."""
        return data.stats.mean_weight if segment == "train" and self.config.sample_weights else None


def library_says(path: Path, holds: str, error: Exception) -> SchemaError:
    """One text for a stored file that a library cannot read."""
    return SchemaError(
        f"{path} does not hold {holds}: {error}. Fit the model again, or load it from where it is whole."
    )


def check_features(path: Path, stored: int, features: int) -> None:
    """Raises: SchemaError: what lies at `path` reads another number of features than the data have."""
    if stored != features:
        raise SchemaError(f"{path} reads {stored} features, the data have {features}.")


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Store arrays as safetensors, which holds no code."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def read_arrays(path: Path, shapes: Mapping[str, tuple[int | str, ...]]) -> dict[str, npt.NDArray[Any]]:
    """Read what `write_arrays` wrote.

    Args:
        shapes: of each array; a letter stands for a size that must be the same wherever it stands.
    Raises: SchemaError: the file is missing or damaged, or an array is missing, too many, or of another shape.
    """
    try:
        arrays: dict[str, npt.NDArray[Any]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise library_says(path, "the arrays of a model", error) from error
    if set(arrays) != set(shapes):
        raise SchemaError(f"{path} holds {', '.join(sorted(arrays))}, not {', '.join(sorted(shapes))}.")
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        given = arrays[name].shape
        wanted = tuple(sizes.setdefault(n, g) if isinstance(n, str) else n for n, g in zip(shape, given, strict=False))
        if given != wanted or len(given) != len(shape):
            raise SchemaError(
                f"{path}: {name} has shape {given}, not {shape}. It is of other data, or damaged: fit the model again."
            )
    return arrays
