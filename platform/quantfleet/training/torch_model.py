"""Every torch family behind the Model contract: fit through Ray Train, answer in this process.

Shapes: B chunks, C targets, L look-back bars, F features, H horizons, N windows.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.train.torch import TorchTrainer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantfleet.config import to_plain
from quantfleet.contracts import ChunkBatch, FitContext, FitReport, Forecast, Model, Segment, TrainingData
from quantfleet.contracts.chunk import DataSpec
from quantfleet.errors import SchemaError, TrainingError
from quantfleet.storage import Storage
from quantfleet.training.checkpoints import WEIGHTS_FILE, best_weights, check_stored_fit
from quantfleet.training.config import TrainingConfig
from quantfleet.training.fit_task import FitTask
from quantfleet.training.loop import fit_on_worker
from quantfleet.training.optimisation import check_average
from quantfleet.training.preflight import check_batch, check_run, fit_record
from quantfleet.training.runtime import TRAIN_DIR, run_config, run_trainer, scaling_config, torch_backend
from quantfleet.training.torch_config import TorchModelConfig
from quantfleet.training.windows import gather_windows
from quantfleet.transforms import InputTransform
from quantfleet.transforms.inputs import label_place, scaled_spec

__all__ = ["TorchModel"]

_PREDICT_WINDOWS = 4096


def _difference(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What stored weights lack or have otherwise, the first of each kind and how many more; empty where they fit."""
    groups = {
        "lacks": [name for name in wanted if name not in stored],
        "has beyond the model": [name for name in stored if name not in wanted],
        "has in another shape": [
            f"{name} {list(stored[name].shape)} for {list(wanted[name].shape)}"
            for name in wanted
            if name in stored and stored[name].shape != wanted[name].shape
        ],
    }
    return "; ".join(
        f"it {what} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for what, names in groups.items()
        if names
    )


class TorchModel(Model):
    """A network with what is done to its inputs. Answers on the CPU, without gradients."""

    def __init__(self, config: TorchModelConfig, spec: DataSpec) -> None:
        self.config: TorchModelConfig = config
        self.spec = spec
        self.inputs: InputTransform | None = None
        if config.selection is not None:
            label_place(spec, config.selection_label)
        self._build(scaled_spec(spec, config.scaler.kind, config.scaler.lookback_bars))

    def _build(self, spec: DataSpec) -> None:
        """Make an empty network for inputs of this spec. Raises: ConfigError: they do not fit the config."""
        self._network_spec = spec
        self.forecaster = self.config.build_forecaster(spec).eval()

    @property
    def per_symbol(self) -> bool:
        return self.inputs is not None and self.inputs.per_symbol

    def fit(self, data: TrainingData, context: FitContext) -> FitReport:
        began = time.perf_counter()
        config, training = self.config, context.training
        self._check(data, training)
        inputs = InputTransform.fit(
            data, scaler=config.scaler, selection=config.selection, label=config.selection_label
        )
        # a selection may leave fewer features than the config can do with: say so before workers start
        self._build(inputs.spec)
        segments: tuple[Segment, ...] = ("train", "validation")
        run, fit = f"{TRAIN_DIR}/{context.run_name}", self._fit_record(data, training, context.seed)
        check_stored_fit(context.storage, run, fit, retry_s=training.faults.storage_retry_s)
        task = FitTask(
            config=config,
            spec=self.spec,
            inputs=inputs,
            augmenter=config.augmenter(data, inputs, context.seed),
            stats=data.stats,
            training=training,
            seed=context.seed,
            readers={s: data.reader(s) for s in segments},
            storage=context.storage,
            run=run,
            fit=fit,
            live=context.live,
            profile_folder=context.profile_folder,
        )
        result = run_trainer(
            lambda: TorchTrainer(
                fit_on_worker,
                train_loop_config={"task": task},
                torch_config=torch_backend(context),
                scaling_config=scaling_config(context),
                run_config=run_config(context),
            ),
            context,
        )
        made: dict[str, Any] = result.return_value
        if made["stopped"]:
            raise TrainingError(f"training {context.run_name!r} stopped: {made['stopped']}", run=context.run_name)
        self.load_best(context.storage, context.run_name)
        return FitReport(
            curves=made["curve"],
            seconds=time.perf_counter() - began,
            resumed_from=made["resumed_from"],
            parameters=sum(p.numel() for p in self.forecaster.network.parameters()),
        )

    def load_best(self, storage: Storage, run_name: str) -> None:
        """Take the weights of a fit's best epoch, whether it is over or not.

        Raises: TrainingError: no epoch of it was finished, or the stored weights are not as they were written.
        """
        kept = best_weights(storage, f"{TRAIN_DIR}/{run_name}")
        if not kept:
            raise TrainingError(f"training {run_name!r} ended before its first epoch was over.", run=run_name)
        with tempfile.TemporaryDirectory() as folder:
            kept[0].fetch(storage, Path(folder))
            self.load(Path(folder))

    def _fit_record(self, data: TrainingData, training: TrainingConfig, seed: int) -> dict[str, Any]:
        """What a checkpoint must be of for this fit to go on from it; whatever else is changed may be changed half-way."""
        strategy = to_plain(training.strategy)
        return {
            **fit_record(self.config, self.spec, seed=seed),
            "chunks": data.reader("train").content,
            "strategy": {k: strategy[k] for k in ("kind", "zero_stage") if k in strategy},
            "precision": training.precision,
            "shards": training.data_shards,
        }

    def _check(self, data: TrainingData, training: TrainingConfig) -> None:
        if data.spec != self.spec:
            raise SchemaError(f"model {self.config.label!r} was built for other data than it is to be fitted on.")
        shards = training.data_shards
        self.config.check_shards(shards)
        self.config.loss.check_strategy(training.strategy.kind, compiled=training.compile)
        self.config.loss.check_sampling(training.sampling, weighted=data.stats.weighted)
        check_average(self.config, zero_stage=getattr(training.strategy, "zero_stage", None))
        check_batch(
            self.config.label, self.config.batch_windows, shards=shards, chunks=data.chunks("train"), spec=data.spec
        )
        check_run(training)

    def predict(self, batch: ChunkBatch) -> Forecast:
        spec = self.spec
        if self.inputs is None:
            raise SchemaError(f"model {self.config.label!r} is empty: fit or load it before it is asked.")
        if batch.x_BTF.shape[1:] != (spec.chunk_rows, spec.features):
            raise SchemaError(
                f"model {self.config.label!r} reads chunks of {spec.chunk_rows} rows x {spec.features} features, "
                f"got {batch.x_BTF.shape[1]} x {batch.x_BTF.shape[2]}."
            )
        targets, horizons = batch.mask_BC.size, len(spec.horizons_bars)
        x_BTF = torch.from_numpy(self.inputs.apply(batch.x_BTF, batch.symbol_id_B))
        lookback_bars = self.inputs.spec.lookback_bars
        heads = {name: np.empty((targets, horizons), np.float32) for name in ("return", "direction", "volatility")}
        levels = self.config.loss.quantiles
        if levels:
            heads["quantiles"] = np.empty((targets, horizons, len(levels)), np.float32)
        with torch.inference_mode():
            for first in range(0, targets, _PREDICT_WINDOWS):
                index = torch.arange(first, min(first + _PREDICT_WINDOWS, targets))
                x_NLF = gather_windows(x_BTF, index // spec.chunk_bars, index % spec.chunk_bars, lookback_bars)
                for name, value in self.forecaster.answer(x_NLF).items():
                    if name not in heads:
                        heads[name] = np.empty((targets, *value.shape[1:]), np.float32)
                    heads[name][first : first + len(index)] = value.numpy()
        shape = (*batch.mask_BC.shape, horizons)
        return Forecast(
            return_BCH=heads["return"].reshape(shape),
            direction_logit_BCH=heads["direction"].reshape(shape),
            volatility_BCH=heads["volatility"].reshape(shape),
            quantile_BCHQ=heads["quantiles"].reshape(*shape, len(levels)) if levels else None,
            quantile_levels=levels or None,
            position_BC=heads["position"].reshape(batch.mask_BC.shape) if "position" in heads else None,
            confidence_BCH=heads["confidence"].reshape(shape) if "confidence" in heads else None,
        )

    def save(self, directory: Path) -> None:
        if self.inputs is None:
            raise SchemaError(f"model {self.config.label!r} is empty: fit it before it is saved.")
        self.inputs.save(directory)
        save_file({k: v.contiguous() for k, v in self.forecaster.state_dict().items()}, directory / WEIGHTS_FILE)

    def load(self, directory: Path) -> None:
        inputs = InputTransform.load(directory, self.spec, scaler=True, selection=self.config.selection is not None)
        if inputs.spec != self._network_spec:
            self._build(inputs.spec)
        path = directory / WEIGHTS_FILE
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            raise SchemaError(f"{path} does not hold weights of this {self.config.kind}: {error}") from error
        wrong = _difference(weights, self.forecaster.state_dict())
        if wrong:
            raise SchemaError(
                f"{path} does not hold weights of this {self.config.kind}: {wrong}. They are of other settings or another "
                "version: load them with those that wrote them, or fit again."
            )
        self.forecaster.load_state_dict(weights)
        self.inputs = inputs
        self.forecaster.eval()
