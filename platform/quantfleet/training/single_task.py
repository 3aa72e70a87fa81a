"""Models whose library fits in one process: one Ray task reads all rows, fits, and hands back the model's files.

The files lie under the storage root when the fit is done; the same fit again reads them. A task that is lost begins anew, as
often as `training.faults.max_failures` says.

Shapes: G selected features, K label columns.
"""

from __future__ import annotations

import tempfile
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from quantfleet.contracts import FitContext, FitReport, TrainingData
from quantfleet.errors import ConfigError, QuantfleetError, TrainingError
from quantfleet.training.row_config import SingleTaskConfig
from quantfleet.training.row_model import RowModel, RowTask
from quantfleet.training.rows import RowReader, Rows, Share
from quantfleet.training.runtime import TRAIN_DIR

__all__ = ["Curve", "SingleTaskModel", "all_rows", "fit_here"]

_FOLDER = "fitted"
_DONE = "done"
_COPIES = 3
"""How often the rows lie in memory at the worst moment: the parts as read, together, and as the library holds them."""

Curve = Sequence[Mapping[str, float]]


class SingleTaskModel(RowModel):
    """A RowModel that is fitted on all rows at once."""

    config: SingleTaskConfig
    runs_on_gpu = False
    """Whether the library can use a GPU, so that one is asked for when `training.use_gpu`."""

    @abstractmethod
    def _fit_rows(self, train: Rows, validation: Rows, task: RowTask) -> Curve:
        """Fit; the curve if there is one, as FitReport has it. Runs in the task."""

    @property
    @abstractmethod
    def _parameters(self) -> int:
        """Size of what was fitted."""

    def fit(self, data: TrainingData, context: FitContext) -> FitReport:
        began = time.perf_counter()
        task = self._task(data, context)
        self._check_memory(task)
        storage, folder = context.storage, f"{TRAIN_DIR}/{context.run_name}/{_FOLDER}"
        curve: Curve = ()
        if not storage.exists(folder, _DONE):
            files, curve = self._run(task, context)
            for name, content in files.items():
                storage.write_bytes(f"{folder}/{name}", content)
            storage.write_text(f"{folder}/{_DONE}", "")  # last, so that a torn set of files is never read
        with tempfile.TemporaryDirectory() as local:
            storage.download(folder, Path(local))
            task.inputs.check_checkpoint(Path(local))
            self.load(Path(local))
        return FitReport(curves=curve, seconds=time.perf_counter() - began, parameters=self._parameters)

    def _run(self, task: RowTask, context: FitContext) -> tuple[dict[str, bytes], Curve]:
        training = context.training
        remote = ray.remote(
            num_cpus=training.cpus_per_worker,
            num_gpus=1 if training.use_gpu and self.runs_on_gpu else 0,
            max_retries=training.faults.max_failures,
        )(_fit_in_task)
        reference = remote.remote(task)
        try:
            files, curve = ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, QuantfleetError):
                raise error.cause from error
            raise TrainingError(
                f"training {context.run_name!r} failed in its task: {error.cause}.", run=context.run_name
            ) from error
        except RayError as error:
            raise TrainingError(
                f"training {context.run_name!r} lost its task {training.faults.max_failures + 1} times: {error} Give it a machine "
                "with more memory where that was the reason; the same command tries again.",
                run=context.run_name,
            ) from error
        except KeyboardInterrupt:
            ray.cancel(reference)
            raise
        return files, curve

    def _check_memory(self, task: RowTask) -> None:
        """Raises: ConfigError: the rows take more memory than the config allows."""
        readers = task.readers.values()
        rows = sum(reader.most_rows(workers=1) for reader in readers)
        train = task.readers["train"]
        needed = _COPIES * 4 * rows * (train.features + train.labels + 1)
        if needed > self.config.memory_mb << 20:
            raise ConfigError(
                f"model {self.config.label!r} is fitted in one process, and {rows} rows of {train.features} features would take "
                f"{needed / (1 << 20):.0f} MB there; memory_mb allows {self.config.memory_mb}. Raise it where a machine has that "
                "much, select fewer features, or fit xgboost or lightgbm, which read shards.",
                needed_mb=needed >> 20,
            )


def all_rows(reader: RowReader) -> Rows:
    """Every row of the segment."""
    parts = [reader.read(places) for places in reader.batches(Share(0, 1))]
    return Rows.concatenate(parts, features=reader.features, labels=reader.labels)


def fit_here(model: SingleTaskModel, task: RowTask) -> Curve:
    """Fit in this process. Raises: ConfigError: no training or validation row has all its labels."""
    train, validation = (all_rows(task.readers[segment]) for segment in ("train", "validation"))
    for name, rows in (("train", train), ("validation", validation)):
        if not len(rows):
            raise ConfigError(
                f"model {task.config.label!r} cannot be fitted: no target of the {name} segment knows all its labels. Widen it "
                "in the recipe's split, or ask for shorter horizons."
            )
    curve = model._fit_rows(train, validation, task)
    model.inputs, model.scale = task.inputs, task.scale
    return curve


def _fit_in_task(task: RowTask) -> tuple[dict[str, bytes], Any]:
    model = task.config.build(task.spec)
    curve = fit_here(model, task)
    with tempfile.TemporaryDirectory() as name:
        model.save(Path(name))
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}, curve
