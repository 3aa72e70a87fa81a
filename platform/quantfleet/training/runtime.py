"""Ray Train V2 runs: resources, storage, retries, and how their failures reach the user."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray.train
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

from quantfleet.contracts import FitContext
from quantfleet.errors import QuantfleetError, StorageError, TornCheckpointError, TrainingError
from quantfleet.logs import get_logger
from quantfleet.training.checkpoints import mend_snapshot, sweep
from quantfleet.training.patience import patiently

__all__ = [
    "TRAIN_DIR",
    "RefusalsEndTheFit",
    "run_config",
    "run_trainer",
    "scaling_config",
    "torch_backend",
    "worker_environment",
]

log = get_logger(__name__)

TRAIN_DIR = "train"
"""Folder under the storage root that holds checkpoints of all fits."""
_MAX_RESTARTS_OF_CONTROLLER = 3


def worker_environment() -> dict[str, str]:
    """Environment variables of driver, controller and workers.

    `report()` waits for the controller's next health check, 2 s by default; 0.02 s makes it cost 24 ms instead.
    """
    return {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.02", "OMP_NUM_THREADS": "1"}


def scaling_config(context: FitContext) -> ray.train.ScalingConfig:
    training = context.training
    resources: dict[str, float] = {"CPU": training.cpus_per_worker}
    if training.use_gpu:
        resources["GPU"] = 1
    return ray.train.ScalingConfig(
        num_workers=training.workers,
        use_gpu=training.use_gpu,
        resources_per_worker=resources,
        elastic_resize_monitor_interval_s=training.resize_every_s,
    )


def torch_backend(context: FitContext) -> TorchConfig:
    """Process group of the workers: who waits longer for the others than the timeout counts as hung."""
    return TorchConfig(timeout_s=math.ceil(context.training.faults.collective_timeout_s))


def run_config(context: FitContext) -> ray.train.RunConfig:
    """The newest checkpoints are kept under the storage root; the same context again resumes from them."""
    storage, faults = context.storage, context.training.faults
    return ray.train.RunConfig(
        name=context.run_name,
        storage_path=storage.path(TRAIN_DIR),
        storage_filesystem=storage.filesystem,
        failure_config=ray.train.FailureConfig(
            max_failures=faults.max_failures,
            max_preemption_failures=faults.max_preemptions,
            controller_failure_limit=_MAX_RESTARTS_OF_CONTROLLER,
        ),
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=context.training.checkpoints.keep),
        callbacks=[*context.train_callbacks, RefusalsEndTheFit()],
    )


class RefusalsEndTheFit(ray.train.UserCallback):  # type: ignore[misc]  # Ray Train has no types
    """In the controller: what a worker refuses, it would refuse again, so that retries are for what may pass."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises: the refusal; Ray Train ends a run whose callback raises, without trying again."""
        refusal = _ours(worker_exceptions.values())
        if refusal is not None and not isinstance(refusal, StorageError | TornCheckpointError):
            raise refusal


def _ours(failures: Iterable[Exception]) -> QuantfleetError | None:
    """The first error of ours among those of workers."""
    # Ray wraps what a worker raised to keep its traceback
    causes = (getattr(one, "_base_exc", one) for one in failures)
    return next((cause for cause in causes if isinstance(cause, QuantfleetError)), None)


def run_trainer(make_trainer: Callable[[], Any], context: FitContext) -> ray.train.Result:
    """Fit, and turn what Ray Train raises into one TrainingError with the worker's own reason.

    A controller that died is replaced: a new one under the same name goes on from the newest checkpoint.

    Raises: TrainingError; or the QuantfleetError a worker raised.
    """
    retries, storage, run = context.training.faults.max_failures, context.storage, f"{TRAIN_DIR}/{context.run_name}"
    retry_s = context.training.faults.storage_retry_s
    for attempt in range(retries + 1):
        patiently(lambda: mend_snapshot(storage, run), "list of checkpoints", seconds=retry_s)
        try:
            result = make_trainer().fit()
            _sweep_after(result, context)
            return result
        except ray.train.WorkerGroupError as error:
            said = _ours(error.worker_failures.values())
            if said is not None:
                raise said from error
            raise TrainingError(_reason(error, context), run=context.run_name) from error
        except (ray.train.ControllerError, RayActorError) as error:
            cause = getattr(error, "controller_failure", None)
            if isinstance(cause, QuantfleetError):
                raise cause from error
            if attempt == retries or isinstance(cause, WorkerGroupStartupFailedError | WorkerGroupStartupTimeoutError):
                raise TrainingError(_reason(error, context), run=context.run_name) from error
            log.warning(
                "the controller of a fit was lost; starting another", run=context.run_name, error=str(error)[:300]
            )
        except ray.train.TrainingFailedError as error:
            raise TrainingError(_reason(error, context), run=context.run_name) from error
    raise AssertionError("the last attempt returns or raises")


def _sweep_after(result: ray.train.Result, context: FitContext) -> None:
    """Remove what kills left of a fit that is done; storage that is away for a moment must not make it fail now."""
    listed = [Path(one.path).name for one, _ in result.best_checkpoints or ()]
    patiently(
        lambda: sweep(context.storage, f"{TRAIN_DIR}/{context.run_name}", listed),
        "sweep of old checkpoints", seconds=context.training.faults.storage_retry_s,
    )  # fmt: skip


def _reason(error: Exception, context: FitContext) -> str:
    retries = context.training.faults.max_failures
    return (
        f"training {context.run_name!r} failed after {retries} retries: {error}. Its checkpoints are under "
        f"{context.storage.uri(TRAIN_DIR, context.run_name)}; the same command goes on from the newest one."
    )
