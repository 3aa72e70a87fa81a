"""LightGBM through `ray.train.lightgbm`: each worker streams its share into bins, LightGBM sums the histograms.

LightGBM has one output for each of its "classes"; K classes under an objective of our own (squared error, whose gradient needs
nothing from the other classes) are K regressions that grow side by side: one fit, one curve, one checkpoint.

Three things LightGBM does not do by itself: without `tree_learner: data` workers would each fit alone on their own rows, though
Ray connects them; errors are those of a worker's own rows, so they are added up here; and its random draws cannot be set
anew within a booster, so each stretch of rounds is a booster of its own that begins at the scores of those before. The model is
their sum, and each is stored as a LightGBM text file.

Shapes: G selected features, K = 3 H label columns, R rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

from quantfleet.contracts import Segment
from quantfleet.errors import ConfigError, SchemaError
from quantfleet.training.boosting import BoostedModel, Grower, MakeGrower, no_rows, summed_over_workers
from quantfleet.training.row_model import RowTask, check_features, library_says
from quantfleet.training.rows import RowReader, Rows, Share
from quantfleet_models.lightgbm.config import LightGBMConfig

__all__ = ["LightGBMGrower", "LightGBMModel", "grower"]

_FILES = "trees.json"
"""Names and digests of the text files with trees."""
_QUIET = {"verbosity": -1}
Floats = npt.NDArray[np.float64]


class LightGBMModel(BoostedModel):
    """The sum of a few boosters with K outputs each."""

    config: LightGBMConfig
    boosters: list[lightgbm.Booster]

    def _trainer(self) -> tuple[type[Any], MakeGrower]:
        from ray.train.lightgbm import LightGBMTrainer

        return LightGBMTrainer, grower

    @property
    def _trees(self) -> int:
        return sum(booster.num_trees() for booster in self.boosters)

    def _answer(self, rows_RG: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        return total_scores(self.boosters, rows_RG, threads=1)

    def _save_weights(self, directory: Path) -> None:
        _write(self.boosters, directory, sum(booster.current_iteration() for booster in self.boosters))

    def _load_weights(self, directory: Path, features: int) -> None:
        self.boosters = _read(directory, features, len(self.spec.label_columns))


def total_scores(boosters: list[lightgbm.Booster], rows_RG: npt.NDArray[np.float32], *, threads: int) -> Floats:
    """What the boosters say together, (R, K); rows are answered one by one alike, whatever else is asked."""
    if not len(rows_RG):
        return np.zeros((0, boosters[0].num_model_per_iteration()))
    total_RK: Floats = np.add.reduce([b.predict(rows_RG, raw_score=True, num_threads=threads) for b in boosters])
    return total_RK


def _write(boosters: list[lightgbm.Booster], directory: Path, rounds: int) -> None:
    digests = {}
    for number, booster in enumerate(boosters):
        kept = min(rounds, booster.current_iteration())
        if kept:
            content = booster.model_to_string(num_iteration=kept).encode()
            name = f"trees-{number:04d}.txt"
            (directory / name).write_bytes(content)
            digests[name] = hashlib.sha256(content).hexdigest()
            rounds -= kept
    (directory / _FILES).write_text(json.dumps(digests, indent=1))


def _read(directory: Path, features: int, labels: int) -> list[lightgbm.Booster]:
    """Read what `_write` wrote. A digest comes first: LightGBM ends the whole process over a text that is cut off."""
    try:
        digests: dict[str, str] = json.loads((directory / _FILES).read_text())
        texts = {name: (directory / Path(name).name).read_bytes() for name in sorted(digests)}
    except (OSError, ValueError, TypeError) as error:
        raise library_says(directory / _FILES, "the names of files with trees", error) from error
    boosters = []
    for name, text in texts.items():
        path = directory / name
        if hashlib.sha256(text).hexdigest() != digests[name]:
            raise library_says(path, "the trees that were written", ValueError("its digest is another"))
        try:
            booster = lightgbm.Booster(model_str=text.decode())
        except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
            raise library_says(path, "boosted trees", error) from error
        check_features(path, booster.num_feature(), features)
        if booster.num_model_per_iteration() != labels:
            raise SchemaError(f"{path} answers {booster.num_model_per_iteration()} labels, the data have {labels}.")
        boosters.append(booster)
    if not boosters:
        raise SchemaError(f"{directory / _FILES} names no trees. Fit the model again.")
    return boosters


class _Batch(lightgbm.Sequence):  # type: ignore[misc, unused-ignore]
    """One batch of chunks as LightGBM asks for rows: single ones for its sample, then all. Read when needed, never kept."""

    def __init__(self, source: _Source, number: int, rows: int) -> None:
        self._source, self._number, self._rows = source, number, rows
        self.batch_size = max(1, rows)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int | slice | list[int]) -> npt.NDArray[Any]:
        rows = self._source.rows(self._number).x_RG[index]
        return rows.astype(np.float64) if isinstance(index, (int, np.integer)) else rows


class _Source:
    """A share of a segment: its labels and weights in memory, its features a batch at a time."""

    def __init__(self, reader: RowReader, share: Share) -> None:
        self._reader, self._places = reader, reader.batches(share)
        self._last: tuple[int, Rows] | None = None
        self.sequences: list[_Batch] = []
        thin: list[Rows] = []
        for number in range(len(self._places)):
            rows = self.rows(number)
            if len(rows):
                self.sequences.append(_Batch(self, number, len(rows)))
                thin.append(Rows(np.zeros((len(rows), 0), np.float32), rows.y_RK, rows.weight_R))
        together = Rows.concatenate(thin, features=0, labels=reader.labels)
        self.y_RK, self.weight_R = together.y_RK, together.weight_R

    def __len__(self) -> int:
        return len(self.weight_R)

    def rows(self, number: int) -> Rows:
        if self._last is None or self._last[0] != number:
            self._last = number, self._reader.read(self._places[number])
        return self._last[1]

    def scores(self, boosters: list[lightgbm.Booster], threads: int) -> Floats:
        """What trees of before say of the share's rows, (R, K)."""
        scores_RK = np.empty(self.y_RK.shape, np.float64)
        first = 0
        for number in range(len(self._places)):
            rows = self.rows(number)
            scores_RK[first : first + len(rows)] = total_scores(boosters, rows.x_RG, threads=threads)
            first += len(rows)
        return scores_RK

    def forget(self) -> None:
        """Let the batch go that was read last."""
        self._last = None


@contextlib.contextmanager
def grower(task: RowTask, share: Share, folder: Path | None) -> Iterator[Grower]:
    """What grows on a worker of Ray Train. Raises: ConfigError: the share holds no training row."""
    from ray.train.lightgbm import get_network_params

    network = get_network_params() if share.workers > 1 else {}
    with summed_over_workers(share) as add_up:
        made = LightGBMGrower(task, share, folder, network=network, add_up=add_up)
        try:
            yield made
        finally:
            made.close()


class LightGBMGrower:
    """Grows boosters on one worker.

    Args:
        network: LightGBM's `machines` and `local_listen_port` where there are several workers.
        add_up: adds a vector up over the workers.
    """

    def __init__(
        self,
        task: RowTask,
        share: Share,
        folder: Path | None,
        *,
        network: dict[str, Any],
        add_up: Callable[[Floats], Floats],
    ) -> None:
        self._task, self._share, self._add_up = task, share, add_up
        self._network = _connect(network)
        self._boosters: list[lightgbm.Booster] = []
        if folder is not None:
            self._boosters = _read(folder, task.inputs.spec.features, len(task.spec.label_columns))
        self._sources: dict[Segment, _Source] = {}
        self._scores: dict[Segment, Floats] = {}
        for segment, reader in task.readers.items():
            source = self._sources[segment] = _Source(reader, share)
            if self._boosters:
                self._scores[segment] = source.scores(self._boosters, task.threads)
        if not len(self._sources["train"]):
            raise no_rows(task, share)
        settings = parameters(task, share, seed=task.seed)
        self._train = lightgbm.Dataset(self._sources["train"].sequences, params=settings).construct()
        self._validation: lightgbm.Dataset | None = None
        if len(self._sources["validation"]):
            self._validation = lightgbm.Dataset(
                self._sources["validation"].sequences, reference=self._train, params=settings
            ).construct()
        for source in self._sources.values():
            source.forget()

    def grow(self, rounds: int, seed: int, after_round: Callable[[float, float], bool]) -> None:
        booster, grown = self._begin(seed), 0
        while grown < rounds:
            if booster.update(fobj=self._gradients):  # no split is worth one
                break
            grown += 1
            if after_round(*self._errors(booster)):
                break
        if grown:
            self._boosters.append(lightgbm.Booster(model_str=booster.model_to_string(num_iteration=grown)))

    def save(self, directory: Path, rounds: int) -> None:
        _write(self._boosters, directory, rounds)

    def close(self) -> None:
        """Leave the other workers."""
        if self._network is not None:
            self._network.free_network()

    def _begin(self, seed: int) -> lightgbm.Booster:
        if self._scores:
            self._train.set_init_score(self._scores["train"])
        try:
            booster = lightgbm.Booster(parameters(self._task, self._share, seed=seed), self._train)
        except lightgbm.basic.LightGBMError as error:
            if self._task.use_gpu:
                raise ConfigError(
                    f"model {self._task.config.label!r}: training.use_gpu is set, and this build of LightGBM cannot use the "
                    f"GPU here: {error}. Install one built with USE_GPU=1 and an OpenCL driver on every worker, fit xgboost, or "
                    "set training.use_gpu: false."
                ) from error
            raise
        if self._validation is not None:
            if self._scores:
                self._validation.set_init_score(self._scores["validation"])
            booster.add_valid(self._validation, "validation")
        return booster

    def _gradients(self, scores_RK: Floats, _: lightgbm.Dataset) -> tuple[Floats, Floats]:
        """Of half the weighted squared error."""
        source = self._sources["train"]
        weight_RK = np.broadcast_to(source.weight_R[:, None], source.y_RK.shape)
        return ((scores_RK - source.y_RK) * weight_RK).astype(np.float32), weight_RK.astype(np.float32)

    def _errors(self, booster: lightgbm.Booster) -> tuple[float, float]:
        """Root mean squared errors of all workers' training and validation rows; keeps the scores for the next stretch."""
        booster.eval_train(lambda scores_RK, _: self._keep("train", scores_RK))
        if self._validation is not None:
            booster.eval_valid(lambda scores_RK, _: self._keep("validation", scores_RK))
        sums = []
        for segment, source in self._sources.items():
            squares_R = np.zeros(len(source))
            if len(source):
                squares_R = np.square(self._scores[segment] - source.y_RK).mean(1)
            sums += [float(squares_R @ source.weight_R), float(source.weight_R.sum(dtype=np.float64))]
        train, train_weight, validation, validation_weight = self._add_up(np.array(sums))
        return float(np.sqrt(train / train_weight)), float(np.sqrt(validation / validation_weight))

    def _keep(self, segment: Segment, scores_RK: Floats) -> tuple[str, float, bool]:
        self._scores[segment] = np.array(scores_RK, order="F")
        return "unused", 0.0, False


def _connect(network: dict[str, Any]) -> lightgbm.Booster | None:
    """Join LightGBM's workers. They stay joined while the booster returned lives, so it is one that holds nothing."""
    if not network:
        return None
    labels = np.arange(2.0)
    holder = lightgbm.Booster(_QUIET, lightgbm.Dataset(labels[:, None], label=labels, params=_QUIET))
    return holder.set_network(
        network["machines"], local_listen_port=network["local_listen_port"], num_machines=network["num_machines"]
    )


def parameters(task: RowTask, share: Share, *, seed: int) -> dict[str, Any]:
    """What LightGBM is told."""
    config: LightGBMConfig = task.config
    return {
        **_QUIET,
        "objective": "none",
        "metric": "none",
        "num_class": len(task.spec.label_columns),
        "tree_learner": "data" if share.workers > 1 else "serial",
        "num_machines": share.workers,
        "device_type": "gpu" if task.use_gpu else "cpu",
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "max_depth": config.max_depth,
        "bagging_fraction": config.subsample,
        "bagging_freq": 1 if config.subsample < 1 else 0,
        "feature_fraction": config.column_sample,
        "min_sum_hessian_in_leaf": config.min_child_weight,
        "min_data_in_leaf": 1,
        "lambda_l2": config.l2,
        "max_bin": config.max_bins,
        "bin_construct_sample_cnt": config.sample_rows,
        "num_threads": task.threads,
        "deterministic": True,
        "force_col_wise": not task.use_gpu,
        "seed": seed,
    }
