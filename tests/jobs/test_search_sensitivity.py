"""`quantfleet sensitivity` on the trials of a search as the job writes them."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from quantfleet.errors import ConfigError, DataError, MissingInputError
from quantfleet.storage import Storage, StorageConfig
from quantfleet_jobs.recipe import load_recipe
from quantfleet_jobs.record import RunRecord, StageRecord
from quantfleet_jobs.search_sensitivity import losses_within, print_sensitivity


def recipe(tmp_path: Path):
    return load_recipe("tune_quickstart", [f"storage.root={tmp_path}", "run.name=s"], environ={})


def searched(tmp_path: Path, trials: list[dict]) -> Storage:
    storage = Storage(StorageConfig(root=str(tmp_path)))
    storage.write_text("runs/s/search.json", json.dumps(trials))
    RunRecord(storage, "s").finish(
        StageRecord(
            stage="search",
            fingerprint="f",
            inputs={},
            outputs={"results": "runs/s/search.json"},
            summary="",
            seconds=1.0,
        )
    )
    return storage


def some_trials(count: int, noise: float) -> list[dict]:
    rng, space = np.random.default_rng(0), load_recipe("tune_quickstart", environ={}).value.search.space  # type: ignore[union-attr]
    trials = []
    for _ in range(count):
        settings = {
            name: v.choices[rng.integers(len(v.choices))]
            if v.choices
            else float(np.exp(rng.uniform(np.log(v.low), np.log(v.high))))
            if v.log and not v.whole
            else int(rng.integers(v.low, v.high + 1))
            if v.whole
            else float(rng.uniform(v.low, v.high))
            for name, v in space.items()
        }
        loss = math.log10(settings["learning_rate"]) ** 2 + noise * rng.normal()
        trials.append({"settings": settings, "curve": [{"val_loss": loss}, {"val_loss": loss - 0.1}]})
    return trials


def test_the_setting_that_matters_comes_first_and_the_same_is_written_as_json(tmp_path):
    storage, out = searched(tmp_path, some_trials(40, 0.01)), io.StringIO()
    print_sensitivity(recipe(tmp_path), Console(file=out, width=200))
    text = out.getvalue()
    assert text.splitlines()[2].split()[0] == "learning_rate"
    assert "40 trials" in text
    assert "after 2 epoch(s)" in text
    written = json.loads(storage.read_text("runs/s/sensitivity.json"))
    assert written["settings"][0]["name"] == "learning_rate"
    assert written["settings"][0]["total"] > 0.9
    assert written["r2"] > 0.9


def test_nothing_is_concluded_from_noise_or_without_a_search(tmp_path):
    with pytest.raises(MissingInputError, match="has not done search yet"):
        print_sensitivity(recipe(tmp_path), Console(file=io.StringIO()))
    searched(tmp_path, some_trials(40, 100.0))
    with pytest.raises(DataError, match="nothing can be concluded"):
        print_sensitivity(recipe(tmp_path), Console(file=io.StringIO()))
    with pytest.raises(ConfigError, match="no `search` section"):
        print_sensitivity(
            load_recipe("quickstart", [f"storage.root={tmp_path}"], environ={}), Console(file=io.StringIO())
        )


def test_trials_are_judged_after_the_same_number_of_epochs():
    trials = [{"curve": [{"val_loss": x} for x in losses]} for losses in ([3.0, 2.0, 1.0], [2.5, 2.6], [])]
    losses, epochs = losses_within(trials, None)
    assert (losses[:2], epochs) == ([2.0, 2.5], 2)
    assert math.isnan(losses[2])
    assert losses_within(trials, 3)[0][0] == 1.0
    with pytest.raises(ConfigError, match=r"no trial ran 4 epoch\(s\); the longest ran 3"):
        losses_within(trials, 4)
