"""Trials of one model: Ray Tune chooses settings (Optuna's TPE) and stops the hopeless (ASHA), Ray Train fits each trial."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantfleet.cluster.placement import freeing_abandoned_groups
from quantfleet.config import from_plain, to_plain
from quantfleet.contracts import FitContext, Model, ModelConfig, TrainingData
from quantfleet.errors import ConfigError, TrainingError, nearest
from quantfleet.logs import get_logger
from quantfleet.storage import Storage
from quantfleet.training import TorchModelConfig, TrainingConfig
from quantfleet.tuning.config import ParameterRange, SearchConfig

if TYPE_CHECKING:
    from ray import tune

__all__ = ["SearchTask", "Trial", "load_trial", "probes", "run_search", "trial_config", "tune_config"]

log = get_logger(__name__)

SEARCH_DIR = "search"
"""Folder under the storage root that holds Tune's state."""
_METRIC = "val_loss"
_DRIVER_CPUS = 0.1


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """Everything a search is made of."""

    name: str
    """Unique per settings and data: the same name again goes on where the search stopped."""
    base: TorchModelConfig
    search: SearchConfig
    data: TrainingData
    storage: Storage
    training: TrainingConfig
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What became of one trial."""

    trial_id: str
    settings: Mapping[str, Any]
    val_loss: float
    """Lowest validation loss of any epoch; NaN when none was finished."""
    epochs: int
    curve: tuple[Mapping[str, float], ...]
    checkpoint: str | None
    """Path of the newest checkpoint on the storage's file system."""
    error: str | None
    """Why it failed, if it did."""


def trial_config(base: TorchModelConfig, settings: Mapping[str, Any], label: str) -> TorchModelConfig:
    """The base config with a trial's settings, checked as a recipe is. Raises: ConfigError."""
    known = {field.name for field in dataclasses.fields(base)} - {"name"}
    for name in settings:
        if name not in known:
            raise ConfigError(
                f"search.space names {name!r}, which model {base.label!r} does not have.{nearest(name, known)} "
                f"It has: {', '.join(sorted(known))}."
            )
    plain = {**to_plain(base), **settings, "name": label}
    config = from_plain(ModelConfig, plain, where="search.space")
    assert isinstance(config, TorchModelConfig)
    return config


def probes(base: TorchModelConfig, search: SearchConfig) -> list[TorchModelConfig]:
    """The model at every choice and both ends of every setting. Raises: ConfigError: a setting or a value is wrong."""
    return [
        trial_config(base, {name: value}, "probe")
        for name, values in search.space.items()
        for value in values.choices or (_end(values.low, values), _end(values.high, values))
    ]


def run_search(task: SearchTask, show: Callable[[str], None]) -> list[Trial]:
    """Run all trials and return them, best validation loss first.

    Killed at any moment, the same task goes on: finished trials are kept, others resume from their last checkpoint.

    Args:
        show: gets a line whenever a trial reports.
    Raises: ConfigError: a setting or a value is wrong. TrainingError: every trial failed.
    """
    from ray import tune

    from quantfleet.tuning.reports import TrialReports

    TrialReports.show = staticmethod(show)
    for probe in probes(task.base, task.search):
        probe.build_network(task.data.spec)
    space = {name: _distribution(values) for name, values in task.search.space.items()}
    trainable = tune.with_resources(tune.with_parameters(_trial, task=task), {"CPU": _DRIVER_CPUS})
    tuner = _restored(task, trainable, space)
    if tuner is None:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune_config(task.search, epochs=task.base.epochs, seed=task.seed),
            run_config=tune.RunConfig(
                name=task.name,
                storage_path=task.storage.path(SEARCH_DIR),
                storage_filesystem=task.storage.filesystem,
                callbacks=[TrialReports(task.search.trials)],
                verbose=0,
            ),
        )
    with freeing_abandoned_groups():  # of trials that ASHA stopped
        results = tuner.fit()
    trials = [_outcome(result) for result in results]
    if all(trial.error for trial in trials):
        raise TrainingError(f"all {len(trials)} trials of search {task.name!r} failed; the first: {trials[0].error}")
    return sorted(trials, key=lambda t: math.inf if math.isnan(t.val_loss) else t.val_loss)


def tune_config(search: SearchConfig, *, epochs: int, seed: int) -> tune.TuneConfig:
    """How Tune chooses settings (Optuna's TPE) and stops trials (ASHA, on the validation loss after each epoch).

    Args:
        epochs: of a trial that is not stopped.
    """
    from optuna.samplers import TPESampler
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    return tune.TuneConfig(
        metric=_METRIC,
        mode="min",
        num_samples=search.trials,
        max_concurrent_trials=search.concurrent_trials,
        search_alg=OptunaSearch(sampler=TPESampler(seed=seed)),
        scheduler=ASHAScheduler(
            time_attr="training_iteration",
            max_t=epochs,
            grace_period=min(search.grace_epochs, epochs),
            reduction_factor=search.reduction_factor,
        ),
    )


def _restored(task: SearchTask, trainable: Any, space: Mapping[str, Any]) -> Any:
    """The search of this name where it stopped; None when there is none, or it died while it was being set up."""
    from ray import tune

    place, filesystem = task.storage.path(SEARCH_DIR, task.name), task.storage.filesystem
    if not tune.Tuner.can_restore(place, storage_filesystem=filesystem):
        return None
    try:
        return tune.Tuner.restore(
            place,
            trainable,
            param_space=dict(space),
            resume_unfinished=True,
            restart_errored=True,
            storage_filesystem=filesystem,
        )
    except (
        EOFError,
        pickle.UnpicklingError,
    ) as error:  # Tune writes its state in place: killed then, no trial had begun
        log.warning("search state is torn; starting the search anew", search=task.name, error=str(error))
        task.storage.delete(SEARCH_DIR, task.name)
        return None


def load_trial(trial: Trial, task: SearchTask) -> Model:
    """The model of a trial, with the weights of its best epoch. Raises: TrainingError: the trial ended before its first."""
    model = trial_config(task.base, trial.settings, trial.trial_id).build(task.data.spec)
    model.load_best(task.storage, _run_name(task, trial.trial_id))
    return model


def _run_name(task: SearchTask, trial_id: str) -> str:
    return f"{task.name}-{trial_id}"


def _trial(settings: dict[str, Any], *, task: SearchTask) -> None:
    """Runs in Tune's trial actor: a Train run of its own, whose reports go to Tune; a restart resumes it by its name."""
    from ray import tune

    from quantfleet.tuning.reports import EpochReports

    trial_id = tune.get_context().get_trial_id()
    config = trial_config(task.base, settings, trial_id)
    context = FitContext(
        run_name=_run_name(task, trial_id),
        storage=task.storage,
        training=dataclasses.replace(task.training, workers=task.search.workers_per_trial, shards=None),
        seed=task.seed,
        train_callbacks=(EpochReports(),),
    )
    config.build(task.data.spec).fit(task.data, context)


def _end(bound: float | None, values: ParameterRange) -> Any:
    assert bound is not None
    return int(bound) if values.whole else bound


def _distribution(values: ParameterRange) -> Any:
    from ray import tune

    if values.choices is not None:
        return tune.choice(list(values.choices))
    assert values.low is not None
    assert values.high is not None
    if values.whole:
        draw = tune.lograndint if values.log else tune.randint
        return draw(int(values.low), int(values.high) + 1)  # Tune's upper bound is not drawn
    return tune.loguniform(values.low, values.high) if values.log else tune.uniform(values.low, values.high)


def _outcome(result: Any) -> Trial:
    frame = result.metrics_dataframe
    rows = [] if frame is None else frame.to_dict("records")
    kept = ("epoch", "train_loss", _METRIC, "learning_rate", "seconds")
    curve = tuple({key: float(row[key]) for key in kept if key in row} for row in rows if _METRIC in row)
    return Trial(
        trial_id=str((result.metrics or {}).get("trial_id", Path(result.path).name)),
        settings=dict(result.config or {}),
        val_loss=min((row[_METRIC] for row in curve), default=math.nan),
        epochs=len(curve),
        curve=curve,
        checkpoint=(result.metrics or {}).get("checkpoint_path"),
        error=str(result.error) if result.error else None,
    )
