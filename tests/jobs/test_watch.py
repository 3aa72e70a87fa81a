"""One fit watched from both ends, without Ray: what it says becomes lines, MLflow points and a picture."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from support.recipes import small_recipe, tiny_hybrid, write_recipe

from quantfleet.config import fingerprint
from quantfleet.registry.store import ModelRegistry
from quantfleet.storage import Storage
from quantfleet.training import FaultsConfig, TrainingConfig
from quantfleet.training.live import LiveReport
from quantfleet_jobs.progress import Progress
from quantfleet_jobs.recipe import load_recipe
from quantfleet_jobs.watch import fit_params, watched_fit, without_watching

ROW = {"epoch": 0, "epochs": 2, "step": 5, "steps": 10, "train_loss": 1.0, "rows_per_s": 2_000.0, "input_stall": 0.5}


@pytest.fixture
def context(tmp_path: Path) -> Any:
    recipe = write_recipe(tmp_path, small_recipe(str(tmp_path / "store"), models=[tiny_hybrid()], name="seen"))
    resolved = load_recipe(str(recipe), (), environ={}).value
    storage = Storage(resolved.storage)
    said = io.StringIO()
    progress = Progress(Console(file=said, width=200), live_every_s=0.0)
    progress.start("train", 1, 1)
    registry = ModelRegistry(resolved.registry, storage, loader_module="quantfleet_jobs.pyfunc")
    return SimpleNamespace(recipe=resolved, storage=storage, registry=registry, progress=progress, said=said)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[[LiveReport], None]:
    """Speaks as the fit does, in place of the queue."""
    shown: list[Callable[[LiveReport], None]] = []

    @contextlib.contextmanager
    def no_queue(show: Callable[[LiveReport], None], *, run: str, model: str) -> Iterator[Any]:
        assert (run, model) == ("seen", "hybrid")
        shown.append(show)
        yield "channel"

    monkeypatch.setattr("quantfleet.training.live.live_reports", no_queue)
    monkeypatch.setattr("quantfleet.cluster.dashboard.dashboard_link", lambda: "http://127.0.0.1:8265/#/jobs/01")
    return lambda report: shown[0](report)


def test_what_a_fit_says_becomes_lines_points_and_a_picture(context: Any, say: Callable[[LiveReport], None]):
    (model,) = context.recipe.models
    with watched_fit(model, context, "seen-hybrid-01") as watch:
        say(LiveReport("workers", {"workers": 2}))
        say(LiveReport("step", ROW))
        say(LiveReport("report", {**ROW, "step": 10, "val_loss": 0.75}))
        picture = watch.finish([{"epoch": 0, "step": 10, "train_loss": 1.0, "val_loss": 0.75}])

    lines = [line.removeprefix("[ 1/1] train     ") for line in context.said.getvalue().splitlines()]
    assert lines == [
        "started",
        "hybrid: http://127.0.0.1:8265/#/jobs/01",
        "hybrid: starting | 2 workers",
        "hybrid: epoch 1/2 step 5/10 loss 1.000 | 2.0k rows/s stall 50% | 2 workers",
        lines[4],
    ]
    assert lines[4].startswith("hybrid: epoch 1/2 step 10/10 loss 1.000 val 0.750 | 2.0k rows/s stall 50% | 2 workers")
    client = context.registry.client
    (run,) = client.search_runs([context.registry.experiment("seen")], "tags.`quantfleet.fit` = 'seen-hybrid-01'")
    assert run.info.status == "FINISHED"
    assert run.data.tags["quantfleet.kind"] == "hybrid"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "val_loss")] == [(10, 0.75)]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train_loss")] == [5, 10]
    assert "system/cpu_utilization_percentage" in run.data.metrics
    assert Path(client.download_artifacts(run.info.run_id, "plots/learning.png")).read_bytes() == picture


def test_how_closely_a_fit_is_watched_makes_it_no_other_fit(context: Any):
    def print_of(**settings: Any) -> str:
        return fingerprint(without_watching(TrainingConfig(**settings)))

    watched = {"report_every_s": 0.5, "profile_steps": (20, 10), "faults": FaultsConfig(max_failures=9)}
    assert print_of(workers=3, **watched) == print_of(workers=3)
    assert print_of(workers=3) == print_of(workers=2, shards=3), "the same steps on fewer workers"
    assert print_of(workers=3) != print_of(workers=2)
    params = fit_params(context.recipe.models[0], context.recipe)
    assert params["training.profile_steps"] == "None"


def test_profile_steps_come_from_the_command_line_and_must_be_steps(tmp_path: Path):
    from quantfleet.errors import ConfigError

    path = str(write_recipe(tmp_path, small_recipe(str(tmp_path / "store"), models=[tiny_hybrid()])))
    asked = load_recipe(path, ["training.profile_steps=[20, 10]"], environ={}).value
    assert asked.training.profile_steps == (20, 10)
    for wrong in ("[20]", "[20, 0]", "[-1, 5]"):
        with pytest.raises(ConfigError, match=r"profile_steps"):
            load_recipe(path, [f"training.profile_steps={wrong}"], environ={})
