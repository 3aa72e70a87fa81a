"""How failures of Ray Train reach the user; no cluster needed."""

import dataclasses
from types import SimpleNamespace

import pytest
import ray.train
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerGroupStartupTimeoutError

from quantfleet.contracts import FitContext
from quantfleet.errors import ConfigError, DataError, StorageError, TornCheckpointError, TrainingError
from quantfleet.storage import Storage, StorageConfig
from quantfleet.training import CheckpointsConfig, FaultsConfig, TrainingConfig
from quantfleet.training.runtime import RefusalsEndTheFit, run_config, run_trainer, scaling_config, torch_backend

CONTEXT = FitContext(
    run_name="unlucky",
    storage=Storage(StorageConfig(root="/data")),
    training=TrainingConfig(
        workers=3,
        cpus_per_worker=2,
        faults=FaultsConfig(max_failures=5, max_preemptions=7, collective_timeout_s=20.5),
        checkpoints=CheckpointsConfig(keep=4),
    ),
    seed=1,
)


class Failing:
    """A trainer whose fit raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def fit(self) -> None:
        raise self.error


def test_an_error_of_ours_on_a_worker_arrives_as_itself():
    wrapped = UserExceptionWithTraceback(ConfigError("batch too large", key="batch_windows"), "Traceback ...")
    with pytest.raises(ConfigError, match="batch too large") as caught:
        run_trainer(lambda: Failing(ray.train.WorkerGroupError("rank 1 failed", {1: wrapped})), CONTEXT)
    assert caught.value.fields == {"key": "batch_windows"}


@pytest.mark.parametrize("refusal", [ConfigError("no such GPU"), DataError("NaN"), TrainingError("of another model")])
def test_what_a_worker_refuses_ends_the_fit_without_a_retry_and_arrives_as_itself(refusal: Exception):
    (callback,) = run_config(CONTEXT).callbacks
    failures = {0: RuntimeError("connection reset"), 1: UserExceptionWithTraceback(refusal, "Traceback ...")}
    with pytest.raises(type(refusal)) as raised:
        callback.after_exception(None, failures)
    made = []

    def trainer() -> Failing:
        made.append(1)
        return Failing(ray.train.ControllerError(raised.value))  # what Ray Train makes of it

    with pytest.raises(type(refusal), match=str(refusal)):
        run_trainer(trainer, CONTEXT)
    assert len(made) == 1


@pytest.mark.parametrize("passing", [RuntimeError("killed"), StorageError("away"), TornCheckpointError("cut")])
def test_what_may_pass_is_left_to_the_retries(passing: Exception):
    RefusalsEndTheFit().after_exception(None, {0: UserExceptionWithTraceback(passing, "Traceback ...")})


@pytest.mark.parametrize(
    "error",
    [
        ray.train.WorkerGroupError("worker died", {0: RuntimeError("killed")}),
        ray.train.ControllerError(RuntimeError("controller died")),
    ],
    ids=["worker", "controller"],
)
def test_any_other_failure_says_where_the_checkpoints_are_and_how_to_go_on(error: Exception):
    with pytest.raises(
        TrainingError, match=r"(?s)'unlucky' failed after 5 retries.*/data/train/unlucky.*same command goes on"
    ):
        run_trainer(lambda: Failing(error), CONTEXT)


def test_resources_retries_and_retention_come_from_the_config():
    scaling, run = scaling_config(CONTEXT), run_config(CONTEXT)
    assert scaling.num_workers == 3
    assert scaling.resources_per_worker == {"CPU": 2}
    assert run.failure_config.max_failures == 5
    assert run.checkpoint_config.num_to_keep == 4
    assert run.failure_config.max_preemption_failures == 7
    assert torch_backend(CONTEXT).timeout_s == 21
    assert (run.storage_path, run.name) == ("/data/train", "unlucky")


def test_a_lost_controller_is_replaced_and_the_fit_goes_on():
    lost = [ActorDiedError(), ray.train.ControllerError(RuntimeError("gone"))]

    class Trainer:
        def fit(self) -> SimpleNamespace:
            if lost:
                raise lost.pop()
            return done

    done = SimpleNamespace(best_checkpoints=[])
    assert run_trainer(Trainer, CONTEXT) is done
    assert not lost


def test_workers_that_never_start_are_not_asked_for_again_and_again():
    asked = []

    def trainer() -> Failing:
        asked.append(1)
        return Failing(ray.train.ControllerError(WorkerGroupStartupTimeoutError(3)))

    with pytest.raises(TrainingError, match="startup timed out"):
        run_trainer(trainer, CONTEXT)
    assert len(asked) == 1


def test_an_elastic_fit_asks_ray_for_a_range_of_workers():
    training = TrainingConfig(workers=(2, 6), resize_every_s=5)
    scaling = scaling_config(dataclasses.replace(CONTEXT, training=training))
    assert (scaling.min_workers, scaling.max_workers, scaling.elastic_resize_monitor_interval_s) == (2, 6, 5)
    assert training.data_shards == 6, "as many shards as the most workers, so that all of them have work"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"workers": (4, 2)}, "write the smaller number first"),
        ({"workers": 4, "shards": 3}, "training.shards=3 is fewer than the 4 workers"),
        ({"cpus_per_worker": 1.5}, "whole cores above 1; write 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said):
        TrainingConfig(**settings)
