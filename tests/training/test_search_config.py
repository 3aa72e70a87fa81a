"""How a search chooses and stops, on Tune's own objects; no cluster."""

from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from quantfleet.tuning import ParameterRange, SearchConfig
from quantfleet.tuning.search import tune_config

SEARCH = SearchConfig(
    model="hybrid",
    space={"learning_rate": ParameterRange(low=1e-4, high=1e-2, log=True)},
    trials=6,
    concurrent_trials=2,
    grace_epochs=2,
    reduction_factor=2,
)


def trial(name: str) -> Any:
    """As much of a Tune trial as a scheduler looks at."""
    return SimpleNamespace(trial_id=name, status="RUNNING")


def decisions(scheduler: AsyncHyperBandScheduler, losses: dict[str, float], epoch: int) -> dict[str, str]:
    said = {}
    for name, loss in losses.items():
        result = {"training_iteration": epoch, "val_loss": loss}
        said[name] = scheduler.on_trial_result(None, trial(name), result)
    return said


@pytest.fixture
def asha() -> AsyncHyperBandScheduler:
    made = tune_config(SEARCH, epochs=8, seed=3).scheduler
    assert isinstance(made, AsyncHyperBandScheduler)
    made.set_search_properties("val_loss", "min")
    for name in ("good", "bad", "worse"):
        made.on_trial_add(None, trial(name))
    return made


def test_settings_are_drawn_by_optuna_s_tpe_and_judged_on_validation():
    config = tune_config(SEARCH, epochs=8, seed=3)
    assert isinstance(config.search_alg, OptunaSearch)
    assert isinstance(config.search_alg._sampler, optuna.samplers.TPESampler)
    assert (config.metric, config.mode) == ("val_loss", "min")
    assert (config.num_samples, config.max_concurrent_trials) == (6, 2)


def test_asha_stops_what_is_worse_than_half_at_the_end_of_the_grace_and_not_before(asha: AsyncHyperBandScheduler):
    losses = {"good": 1.0, "bad": 2.0, "worse": 3.0}
    assert set(decisions(asha, losses, epoch=1).values()) == {TrialScheduler.CONTINUE}
    at_the_rung = decisions(asha, losses, epoch=2)
    assert at_the_rung["good"] == TrialScheduler.CONTINUE
    assert at_the_rung["worse"] == TrialScheduler.STOP


def test_asha_ends_a_trial_at_its_last_epoch(asha: AsyncHyperBandScheduler):
    assert decisions(asha, {"good": 1.0}, epoch=8) == {"good": TrialScheduler.STOP}


def test_a_grace_longer_than_a_trial_is_the_whole_trial():
    scheduler = tune_config(SearchConfig(model="h", space=SEARCH.space, grace_epochs=9), epochs=3, seed=1).scheduler
    scheduler.set_search_properties("val_loss", "min")
    scheduler.on_trial_add(None, trial("a"))
    assert decisions(scheduler, {"a": 9.0}, epoch=2) == {"a": TrialScheduler.CONTINUE}
