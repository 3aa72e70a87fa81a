"""Boosting on Ray Train workers: rounds in stretches, a checkpoint after each, early stopping on the sum over all workers.

What differs between libraries is behind `Grower`. A stretch ends where a checkpoint is written, and its random draws depend on
the seed and the round it begins at; so a fit that was interrupted makes the trees that it would have made anyway. The number
of workers is asked of Ray Train on the worker: when it changes, the new ones share all the chunks.

Shapes: K label columns.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import ray.train
import ray.train.collective

from quantfleet.contracts import FitContext, FitReport, TrainingData
from quantfleet.errors import ConfigError, TornCheckpointError, TrainingError
from quantfleet.storage import Storage
from quantfleet.training.checkpoints import PROGRESS_FILE, check_stored_fit, fetch_newest, fetch_whole, upload
from quantfleet.training.preflight import check_run, check_same_fit, fit_record
from quantfleet.training.row_config import BoostedConfig
from quantfleet.training.row_model import RowModel, RowTask
from quantfleet.training.rows import Share
from quantfleet.training.runtime import TRAIN_DIR, run_config, run_trainer, scaling_config

__all__ = [
    "BoostedFit",
    "BoostedModel",
    "Grower",
    "Progress",
    "boost",
    "no_rows",
    "stretch_seed",
    "summed_over_workers",
]

SCORE = "val_rmse"

Vector = npt.NDArray[np.float64]


class Grower(Protocol):
    """One worker's part in growing an ensemble. Every worker holds all trees and its own rows."""

    def grow(self, rounds: int, seed: int, after_round: Callable[[float, float], bool]) -> None:
        """Add at most so many rounds; fewer where no further split is worth one.

        Args:
            after_round: takes the root mean squared errors of all workers' training and validation rows after each round;
                True: stop.
        """
        ...

    def save(self, directory: Path, rounds: int) -> None:
        """Write the first `rounds` rounds, as the model's `load` reads them."""
        ...


MakeGrower = Callable[[RowTask, Share, Path | None], AbstractContextManager[Grower]]
"""Makes a grower on a worker, with the trees of a checkpoint's folder if there is one."""


@dataclass(frozen=True, kw_only=True)
class BoostedFit:
    """What a worker gets."""

    task: RowTask
    make_grower: MakeGrower
    storage: Storage
    run: str
    """The fit's folder, relative to the storage root."""
    fit: Mapping[str, Any]
    """What is being fitted, as `fit_record` makes it."""
    retry_s: float
    """How long storage that does not answer is waited for."""


@dataclass(kw_only=True)
class Progress:
    """What a checkpoint says beside the trees."""

    fit: Mapping[str, Any] = field(default_factory=dict)
    """What is being fitted; a checkpoint of another fit is refused."""
    curve: list[tuple[float, float]] = field(default_factory=list)
    """Training and validation error after each round."""
    finished: bool = False
    resumed_from: int | None = None

    @property
    def rounds(self) -> int:
        return len(self.curve)

    @property
    def best(self) -> int:
        """Rounds after which the validation error was lowest, the first of equals."""
        return int(np.argmin([validation for _, validation in self.curve])) + 1

    def add(self, config: BoostedConfig, train: float, validation: float) -> bool:
        """Note a round; whether it was the last. Raises: TrainingError: an error is not a finite number."""
        if not (np.isfinite(train) and np.isfinite(validation)):
            raise TrainingError(
                f"model {config.label!r}: the errors after round {self.rounds + 1} are {train} on training and {validation} on "
                "validation rows. Look for values that are not finite in the labels or weights of the chunks."
            )
        self.curve.append((train, validation))
        self.finished = self.rounds >= config.rounds or self.rounds - self.best >= config.patience_rounds
        return self.finished

    def save(self, directory: Path) -> None:
        (directory / PROGRESS_FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, directory: Path) -> Progress:
        """Raises: TrainingError: the file is missing or damaged."""
        path = directory / PROGRESS_FILE
        try:
            record = json.loads(path.read_text())
            curve = [(float(train), float(validation)) for train, validation in record["curve"]]
            return cls(
                fit=record["fit"],
                curve=curve,
                finished=record["finished"],
                resumed_from=record["resumed_from"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{path} does not say how far boosting came: {error}. Start the fit under a new name."
            ) from error


def boost(task: RowTask, grower: Grower, progress: Progress, report: Callable[[Progress], None]) -> None:
    """Grow until the rounds are spent or the validation error rises; report after each stretch.

    Raises: TrainingError: not one split is worth making.
    """
    config: BoostedConfig = task.config
    every = config.checkpoint_every_rounds
    while not progress.finished:
        done = progress.rounds
        until = min(config.rounds, (done // every + 1) * every)
        grower.grow(until - done, stretch_seed(task.seed, done), lambda t, v: progress.add(config, t, v))
        if progress.rounds == done:  # no draw of rows and features gave a split
            if not done:
                raise TrainingError(
                    f"model {config.label!r} found no split to make: every leaf would weigh less than min_child_weight="
                    f"{config.min_child_weight}, or no feature tells the labels apart. Lower it, or use more rows."
                )
            progress.finished = True
        report(progress)


def stretch_seed(seed: int, rounds: int) -> int:
    """Seed of the draws in the stretch that begins after so many rounds, in [0, 2^31)."""
    return int(np.random.SeedSequence((seed, rounds)).generate_state(1)[0] >> 1)


def no_rows(task: RowTask, share: Share) -> ConfigError:
    """A worker whose share of the training chunks holds no row."""
    chunks = len(task.readers["train"].chunks)
    return ConfigError(
        f"model {task.config.label!r}: worker {share.rank} of {share.workers} has no training row; the segment has {chunks} "
        f"chunks. Set training.workers to {max(1, min(share.workers - 1, chunks))} or less."
    )


class BoostedModel(RowModel):
    """A RowModel whose ensemble is grown by Ray Train workers, from shards."""

    config: BoostedConfig

    @abstractmethod
    def _trainer(self) -> tuple[type[Any], MakeGrower]:
        """Ray Train's trainer of this library, and what makes the grower on a worker."""

    @property
    @abstractmethod
    def _trees(self) -> int:
        """How many trees were fitted."""

    def fit(self, data: TrainingData, context: FitContext) -> FitReport:
        began = time.perf_counter()
        check_run(context.training)
        trainer_class, make_grower = self._trainer()
        fit = BoostedFit(
            task=self._task(data, context),
            make_grower=make_grower,
            storage=context.storage,
            run=f"{TRAIN_DIR}/{context.run_name}",
            fit={
                **fit_record(self.config, self.spec, seed=context.seed),
                "chunks": data.reader("train").content,
            },
            retry_s=context.training.faults.storage_retry_s,
        )
        check_stored_fit(fit.storage, fit.run, fit.fit, retry_s=fit.retry_s)
        run_trainer(
            lambda: trainer_class(
                fit_on_worker,
                train_loop_config={"fit": fit},
                scaling_config=scaling_config(context),
                run_config=run_config(context),
            ),
            context,
        )
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, "checkpoint")
            if fetch_newest(fit.storage, fit.run, folder, retry_s=fit.retry_s) is None:
                raise TrainingError(
                    f"training {context.run_name!r} ended without a whole checkpoint.", run=context.run_name
                )
            self.load(folder)
            progress = Progress.load(folder)
        return FitReport(
            curves=[
                {"epoch": float(i), "train_loss": train, "val_loss": validation}
                for i, (train, validation) in enumerate(progress.curve, start=1)
            ],
            seconds=time.perf_counter() - began,
            resumed_from=progress.resumed_from,
            parameters=self._trees,
        )


def fit_on_worker(config: dict[str, BoostedFit]) -> None:
    """Grow this worker's part; goes on from the newest whole checkpoint in storage."""
    fit = config["fit"]
    task = fit.task
    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    with contextlib.ExitStack() as stack:
        progress, folder = (
            Progress(fit=fit.fit),
            _fetch_agreed(fit, share, Path(stack.enter_context(tempfile.TemporaryDirectory()))),
        )
        if folder is not None:
            progress = Progress.load(folder)
            check_same_fit(progress.fit, json.loads(json.dumps(fit.fit)))
            task.inputs.check_checkpoint(folder)
            if progress.finished:
                return
            progress.resumed_from = progress.rounds
        grower = stack.enter_context(fit.make_grower(task, share, folder))
        boost(task, grower, progress, lambda now: _report(fit, share, grower, now))


def _fetch_agreed(fit: BoostedFit, share: Share, folder: Path) -> Path | None:
    """Download the checkpoint that rank 0 finds whole; None where there is none.

    Raises: TornCheckpointError: this worker cannot get it whole.
    """
    mine = folder / "checkpoint"
    path = fetch_newest(fit.storage, fit.run, mine, retry_s=fit.retry_s) if share.rank == 0 else None
    if share.workers > 1:
        path = ray.train.collective.broadcast_from_rank_zero(path)
    if path is None:
        return None
    if share.rank != 0 and not fetch_whole(fit.storage, path, mine, retry_s=fit.retry_s):
        raise TornCheckpointError(
            f"worker {share.rank} could not download {path} whole, as rank 0 did.", checkpoint=path
        )
    return mine


def _report(fit: BoostedFit, share: Share, grower: Grower, progress: Progress) -> None:
    train, validation = progress.curve[-1]
    metrics = {
        "round": progress.rounds,
        "rounds": fit.task.config.rounds,
        "train_rmse": train,
        SCORE: validation,
    }
    if share.rank != 0:
        ray.train.report(metrics)
        return

    def store(checkpoint: Any, name: str) -> Any:
        path = f"{fit.run}/{name}"
        upload(fit.storage, Path(checkpoint.path), path, rank=0, workers=1, retry_s=fit.retry_s)
        return ray.train.Checkpoint(fit.storage.path(path), filesystem=fit.storage.filesystem)

    with tempfile.TemporaryDirectory() as name:
        write_checkpoint(Path(name), fit.task, grower, progress)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(name), checkpoint_upload_fn=store)


def write_checkpoint(directory: Path, task: RowTask, grower: Grower, progress: Progress) -> None:
    """What `RowModel.load` and a fit that goes on read. Of a finished fit, the trees up to the best round."""
    task.inputs.save(directory)
    task.scale.save(directory)
    progress.save(directory)
    grower.save(directory, progress.best if progress.finished else progress.rounds)


@contextlib.contextmanager
def summed_over_workers(share: Share) -> Iterator[Callable[[Vector], Vector]]:
    """Give what adds a small vector up over the workers of a Ray Train run, for libraries that do not add up their errors.

    A group of torch's gloo; when a worker is lost the others' next sum raises.
    """
    if share.workers == 1:
        yield lambda values: values
        return
    import torch
    import torch.distributed as dist

    make_store: Any = dist.TCPStore  # type: ignore[attr-defined]
    store = None
    if share.rank == 0:
        host = ray.util.get_node_ip_address()
        store = make_store(host, 0, share.workers, is_master=True, wait_for_workers=False)
    place = ray.train.collective.broadcast_from_rank_zero((host, store.port) if store is not None else None)
    if store is None:
        store = make_store(*place, share.workers, is_master=False)
    dist.init_process_group("gloo", store=store, rank=share.rank, world_size=share.workers)

    def add_up(values: Vector) -> Vector:
        total = torch.from_numpy(values.copy())
        dist.all_reduce(total)
        return total.numpy()

    try:
        yield add_up
    finally:
        dist.destroy_process_group()
