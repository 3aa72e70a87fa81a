"""A search for real: trials on Ray Tune over Ray Train, each an MLflow run that keeps its out-of-sample returns."""

import json
import time
from pathlib import Path

import polars as pl
import pytest
import ray
from rich.console import Console

from quantfleet.cluster.placement import freeing_abandoned_groups
from quantfleet.registry.store import ModelRegistry
from quantfleet.storage import Storage
from quantfleet_jobs.main import perform
from quantfleet_jobs.recipe import load_recipe
from quantfleet_jobs.run import SEARCH_STAGES

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_cpus_that_a_killed_actor_had_reserved_are_free_again(local_ray: None):
    @ray.remote(num_cpus=0)
    class Reserving:
        def reserve(self) -> None:
            self.group = ray.util.placement_group([{"CPU": 1}])
            ray.get(self.group.ready())

    before = ray.available_resources()["CPU"]
    actor = Reserving.remote()
    ray.get(actor.reserve.remote())
    assert ray.available_resources()["CPU"] == before - 1
    ray.kill(actor)

    with freeing_abandoned_groups(interval_s=0.1):
        deadline = time.monotonic() + 30
        while ray.available_resources()["CPU"] < before and time.monotonic() < deadline:
            time.sleep(0.1)

    assert ray.available_resources()["CPU"] == before


def test_the_shipped_search_keeps_every_trial_and_never_looks_at_the_test_period(local_ray: None, tmp_path: Path):
    small = (
        "search.trials=3",
        "models.0.epochs=2",
        "models.0.batch_windows=1024",
        f"storage.root={tmp_path / 'store'}",
    )
    resolved = load_recipe("tune_quickstart", small, environ={})

    done = perform(SEARCH_STAGES, resolved, console=Console(quiet=True))

    found = done["search"].outputs
    storage = Storage(resolved.value.storage)
    trials = json.loads(storage.read_text(found["results"]))
    assert len(trials) == found["trials"] == 3
    assert len({json.dumps(trial["settings"], sort_keys=True) for trial in trials}) == 3
    for settings in (trial["settings"] for trial in trials):
        assert 3e-4 <= settings["learning_rate"] <= 1e-2
        assert settings["width"] in (16, 32, 64)
        assert 0 <= settings["dropout"] <= 0.4
    losses = [trial["val_loss"] for trial in trials]
    assert losses == sorted(losses)
    assert all(trial["error"] is None for trial in trials)
    assert {trial["epochs"] for trial in trials} <= {1, 2}

    client = ModelRegistry(resolved.value.registry, storage, loader_module="quantfleet_jobs.pyfunc").client
    experiment = client.get_experiment_by_name("tune_quickstart-search")
    runs = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{found['parent_run']}'")
    assert len(runs) == 3
    plan = json.loads(storage.read_text(done["split"].outputs["plan"]))
    for run in runs:
        returns = pl.read_parquet(
            client.download_artifacts(run.info.run_id, "validation_returns.parquet", str(tmp_path))
        )
        assert returns["net_return"].is_finite().all()
        assert returns["timestamp"].max().isoformat() < plan["test"][0]  # type: ignore[union-attr]
        assert run.data.params["model.learning_rate"]
        assert "validation.sharpe" in run.data.metrics
