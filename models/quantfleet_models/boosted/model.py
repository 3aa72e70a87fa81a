"""Boosted trees through `ray.train.xgboost`: each worker streams its share of the chunks, XGBoost sums the histograms.

Shapes: G selected features, K = 3 H label columns, R rows.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from quantfleet.errors import ConfigError, TrainingError
from quantfleet.training.boosting import BoostedModel, Grower, MakeGrower, no_rows
from quantfleet.training.row_model import RowTask, check_features, library_says
from quantfleet.training.rows import RowReader, Rows, Share
from quantfleet_models.boosted.config import XGBoostConfig

__all__ = ["XGBoostModel", "grower"]

_FILE = "booster.ubj"


class XGBoostModel(BoostedModel):
    """One booster with K outputs."""

    config: XGBoostConfig
    booster: xgboost.Booster

    def _trainer(self) -> tuple[type[Any], MakeGrower]:
        from ray.train.xgboost import XGBoostTrainer

        return XGBoostTrainer, grower

    @property
    def _trees(self) -> int:
        return len(self.booster.get_dump())

    def _answer(self, rows_RG: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        out: npt.NDArray[np.float32] = self.booster.inplace_predict(rows_RG)
        return out

    def _save_weights(self, directory: Path) -> None:
        self.booster.save_model(directory / _FILE)

    def _load_weights(self, directory: Path, features: int) -> None:
        path = directory / _FILE
        booster = xgboost.Booster()
        try:
            booster.load_model(path)
        except xgboost.core.XGBoostError as error:
            raise library_says(path, "boosted trees", error) from error
        check_features(path, booster.num_features(), features)
        self.booster = booster


class _Batches(xgboost.DataIter):  # type: ignore[misc, unused-ignore]
    """Hands a share to XGBoost batch after batch, as often as it asks; at least one, if without rows.

    Args:
        cache: prefix of the files that hold what XGBoost made of the batches; None: it stays in memory.
        hold: read every batch once and keep it, instead of reading it anew each time.
    """

    def __init__(self, reader: RowReader, share: Share, *, cache: Path | None, hold: bool) -> None:
        super().__init__(cache_prefix=None if cache is None else str(cache), release_data=True)
        self._reader, self._places = reader, reader.batches(share)
        self._held: list[Rows] | None = [reader.read(places) for places in self._places] if hold else None
        self._next = self._given = 0

    def reset(self) -> None:
        self._next = self._given = 0

    def next(self, input_data: Callable[..., Any]) -> bool:
        while self._next < len(self._places):
            number, self._next = self._next, self._next + 1
            rows = self._reader.read(self._places[number]) if self._held is None else self._held[number]
            if len(rows):
                self._give(rows, input_data)
                return True
        if not self._given and self._next == len(self._places):
            self._next += 1  # once; then there is nothing more
            self._give(Rows.concatenate([], features=self._reader.features, labels=self._reader.labels), input_data)
            return True
        return False

    def _give(self, rows: Rows, input_data: Callable[..., Any]) -> None:
        self._given += len(rows)
        input_data(data=rows.x_RG, label=rows.y_RK, weight=rows.weight_R)


@contextlib.contextmanager
def grower(task: RowTask, share: Share, folder: Path | None) -> Iterator[Grower]:
    """Make the matrices, in memory or on disk, and whatever is on disk is removed in the end.

    Raises: ConfigError: the share holds no training row, or a GPU is to read from external memory.
    """
    config: XGBoostConfig = task.config
    fits = _fits(config, task.readers["train"], share.workers)
    external = uses_external_memory(config, fits=fits, use_gpu=task.use_gpu)
    booster = None
    if folder is not None:
        booster = xgboost.Booster(model_file=folder / _FILE)
    with tempfile.TemporaryDirectory(prefix="quantfleet-xgboost-") as name, contextlib.ExitStack() as stack:
        grown = _XGBoostGrower(task, booster)
        stack.callback(grown.close)
        for segment, reader in task.readers.items():
            batches = _Batches(
                reader, share, cache=Path(name, segment) if external else None, hold=fits and not external
            )
            grown.add(batches, external=external)
        if not grown.rows:
            raise no_rows(task, share)
        yield grown


def uses_external_memory(config: XGBoostConfig, *, fits: bool, use_gpu: bool) -> bool:
    """Raises: ConfigError: a GPU was asked for too, and XGBoost gives it no pages on disk."""
    if use_gpu and config.external_memory == "always":
        raise ConfigError(
            f"model {config.label!r}: external_memory=always keeps pages on disk, which XGBoost reads on the CPU only. Set it to "
            "auto or never, with more workers where the binned features do not fit the GPU; or training.use_gpu: false."
        )
    return config.external_memory == "always" or (config.external_memory == "auto" and not fits and not use_gpu)


def _fits(config: XGBoostConfig, reader: RowReader, workers: int) -> bool:
    """One answer for all workers, whose steps must be the same: it goes by the largest share."""
    return reader.feature_bytes(reader.most_rows(workers)) <= config.memory_mb << 20


class _XGBoostGrower:
    def __init__(self, task: RowTask, booster: xgboost.Booster | None) -> None:
        self._task, self._booster = task, booster
        self._matrices: list[xgboost.DMatrix] = []
        """Training rows, then validation rows."""

    @property
    def rows(self) -> int:
        """Training rows of this worker."""
        return int(self._matrices[0].num_row())

    def add(self, batches: _Batches, *, external: bool) -> None:
        """Bin the rows of a segment; those of validation by the training rows' bins, which the workers agree on."""
        matrix = xgboost.ExtMemQuantileDMatrix if external else xgboost.QuantileDMatrix
        reference = self._matrices[0] if self._matrices else None
        bins, threads = self._task.config.max_bins, self._task.threads
        self._matrices.append(matrix(batches, max_bin=bins, nthread=threads, ref=reference))

    def grow(self, rounds: int, seed: int, after_round: Callable[[float, float], bool]) -> None:
        self._booster = xgboost.train(
            {**parameters(self._task), "seed": seed},
            self._matrices[0],
            num_boost_round=rounds,
            evals=list(zip(self._matrices, ("train", "val"), strict=True)),
            xgb_model=self._booster,
            verbose_eval=False,
            callbacks=[_AfterRound(after_round)],
        )

    def close(self) -> None:
        """Let the pages on disk go; what holds them must do so before their folder goes."""
        self._booster = None
        self._matrices.clear()

    def save(self, directory: Path, rounds: int) -> None:
        if self._booster is None:
            raise TrainingError("there are no trees to save yet.")
        whole = rounds == self._booster.num_boosted_rounds()
        (self._booster if whole else self._booster[:rounds]).save_model(directory / _FILE)


def parameters(task: RowTask) -> dict[str, Any]:
    """What XGBoost is told, the seed left out."""
    config: XGBoostConfig = task.config
    return {
        "objective": "reg:squarederror",
        "tree_method": "hist",
        "device": "cuda" if task.use_gpu else "cpu",
        "max_bin": config.max_bins,
        "eta": config.learning_rate,
        "max_depth": config.max_depth,
        "subsample": config.subsample,
        "colsample_bytree": config.column_sample,
        "min_child_weight": config.min_child_weight,
        "lambda": config.l2,
        "nthread": task.threads,
    }


class _AfterRound(xgboost.callback.TrainingCallback):  # type: ignore[misc, unused-ignore]
    def __init__(self, after_round: Callable[[float, float], bool]) -> None:
        super().__init__()
        self._after_round = after_round

    def after_iteration(self, model: xgboost.Booster, epoch: int, evals_log: Mapping[str, Any]) -> bool:
        return self._after_round(*(float(evals_log[name]["rmse"][-1]) for name in ("train", "val")))
