"""A fit's MLflow run while it runs, on a real MLflow with SQLite: by step, once each, through outages and kills."""

import math
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.stored_models import open_registry, store

from quantfleet.errors import RegistryError
from quantfleet.registry.live import LiveRun
from quantfleet.registry.store import FitRun, LoggedRun, ModelRegistry, Point
from quantfleet.registry.system_metrics import SystemSampler

FIT = FitRun(
    experiment="quickstart",
    parent="quickstart",
    parent_tags={"quantfleet.recipe": "abc"},
    name="hybrid",
    fit="quickstart-hybrid-0123",
    params={"model.width": "32"},
    tags={"quantfleet.kind": "hybrid"},
)
CURVE = ({"epoch": 0, "step": 10, "val_loss": 2.0}, {"epoch": 1, "step": 20, "val_loss": 1.5})


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables: once, then copied."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_registry(root).check()
    return root / "mlflow.db"


@pytest.fixture
def registry(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "root").mkdir()
    shutil.copy(empty_database, tmp_path / "root" / "mlflow.db")
    return open_registry(tmp_path / "root")


class Unsteady:
    """A registry whose server can go away, and that counts what reaches it."""

    def __init__(self, registry: ModelRegistry) -> None:
        self.registry = registry
        self.away = False
        self.answers_late = False
        """What arrives is written, but the answer is lost."""
        self.refused = threading.Event()
        self.written = threading.Event()
        self.batches: list[int] = []

    def _ask(self) -> None:
        if self.away:
            self.refused.set()
            raise RegistryError("connection refused")

    def open_fit(self, fit: FitRun) -> str:
        self._ask()
        return self.registry.open_fit(fit)

    def last_steps(self, run_id: str) -> dict[str, int]:
        self._ask()
        return self.registry.last_steps(run_id)

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        self._ask()
        self.batches.append(len(points))
        self.registry.log_points(run_id, points)
        if self.answers_late:
            self.answers_late = False
            raise RegistryError("timed out")
        self.written.set()

    def log_curve(self, run_id: str, rows: Sequence[Mapping[str, float]]) -> None:
        self._ask()
        self.registry.log_curve(run_id, rows)

    def close_fit(self, run_id: str, status: str, files: Mapping[str, bytes]) -> None:
        self._ask()
        self.registry.close_fit(run_id, status, files)


def live(store: Any, **options: Any) -> LiveRun:
    return LiveRun(store, FIT, **{"write_every_s": 0.01, "patience_s": 2.0, **options})


def runs(registry: ModelRegistry) -> list[Any]:
    experiment = registry.experiment("quickstart")
    return list(registry.client.search_runs([experiment], "tags.`mlflow.parentRunId` != ''"))


def history(registry: ModelRegistry, key: str) -> list[tuple[int, float]]:
    (run,) = runs(registry)
    return [(m.step, m.value) for m in registry.client.get_metric_history(run.info.run_id, key)]


def test_a_run_is_there_from_the_first_minute_and_gets_its_metrics_by_step_while_the_fit_runs(registry: ModelRegistry):
    steady = Unsteady(registry)
    with live(steady) as logged:
        logged.log({"train_loss": 0.9, "rows_per_s": 40_000.0, "val_loss": math.nan}, step=10)
        assert steady.written.wait(30)
        (run,) = runs(registry)
        assert run.info.status == "RUNNING"
        assert run.data.params == {"model.width": "32"}
        assert run.data.tags["quantfleet.kind"] == "hybrid"
        assert run.data.metrics == {"train_loss": 0.9, "rows_per_s": 40_000.0}, "NaN is not logged"
        logged.finish((), {})
    assert runs(registry)[0].info.status == "FINISHED"


def test_points_travel_in_batches(registry: ModelRegistry):
    steady = Unsteady(registry)
    steady.away = True
    with live(steady) as logged:
        for step in range(1, 1501):
            logged.log({"train_loss": 1 / step, "rows_per_s": 1.0}, step=step)
        steady.away = False
    assert sum(steady.batches) == 3000
    assert len(steady.batches) <= 3
    assert [s for s, _ in history(registry, "train_loss")] == list(range(1, 1501))


def test_killed_and_resumed_the_same_fit_goes_on_in_the_same_run_and_logs_no_step_twice(registry: ModelRegistry):
    def killed() -> None:
        with live(registry) as first:
            for step in (10, 20, 30):
                first.log({"train_loss": step / 100}, step=step)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert runs(registry)[0].info.status == "KILLED"

    with live(registry) as second:  # from the checkpoint at step 20 on
        for step in (30, 40):
            second.log({"train_loss": step / 100, "val_loss": 1.0}, step=step)

    (run,) = runs(registry)
    assert run.info.status == "FINISHED"
    assert history(registry, "train_loss") == [(10, 0.1), (20, 0.2), (30, 0.3), (40, 0.4)]
    assert history(registry, "val_loss") == [(30, 1.0), (40, 1.0)], "each metric has a last step of its own"


def test_workers_that_restart_from_a_checkpoint_log_no_step_twice(registry: ModelRegistry):
    with live(registry) as logged:
        for step in (10, 20, 30, 10, 20, 30, 40):
            logged.log({"train_loss": step / 100}, step=step)
    assert [s for s, _ in history(registry, "train_loss")] == [10, 20, 30, 40]


def test_a_server_that_goes_away_costs_one_warning_and_nothing_else(
    registry: ModelRegistry, capsys: pytest.CaptureFixture[str]
):
    unsteady = Unsteady(registry)
    with live(unsteady) as logged:
        logged.log({"train_loss": 1.0}, step=1)
        assert unsteady.written.wait(30)
        unsteady.away = True
        for step in range(2, 6):
            logged.log({"train_loss": 1 / step}, step=step)
            unsteady.refused.clear()
            assert unsteady.refused.wait(30)
        unsteady.away = False
    said = capsys.readouterr()
    assert (said.out + said.err).count("MLflow is away") == 1
    assert (said.out + said.err).count("MLflow is back") == 1
    assert [s for s, _ in history(registry, "train_loss")] == [1, 2, 3, 4, 5]


def test_a_batch_that_was_written_though_its_answer_was_lost_is_not_written_again(registry: ModelRegistry):
    unsteady = Unsteady(registry)
    unsteady.answers_late = True
    with live(unsteady) as logged:
        logged.log({"train_loss": 1.0}, step=1)
        logged.log({"train_loss": 0.5}, step=2)
    assert history(registry, "train_loss") == [(1, 1.0), (2, 0.5)]


def test_a_server_that_stays_away_is_given_up_and_the_fit_ends_well(
    registry: ModelRegistry, capsys: pytest.CaptureFixture[str]
):
    gone = Unsteady(registry)
    gone.away = True
    began = time.monotonic()
    with live(gone, patience_s=0.2) as logged:
        logged.log({"train_loss": 1.0}, step=1)
        logged.finish(CURVE, {})
    assert time.monotonic() - began < 10
    said = capsys.readouterr()
    assert "the register stage completes it" in said.out + said.err


def test_while_the_server_is_away_the_oldest_points_make_room_and_are_counted(
    registry: ModelRegistry, capsys: pytest.CaptureFixture[str]
):
    unsteady = Unsteady(registry)
    unsteady.away = True
    with live(unsteady, most_waiting=3) as logged:
        for step in range(1, 6):
            logged.log({"train_loss": 1.0}, step=step)
        unsteady.away = False
    assert [s for s, _ in history(registry, "train_loss")] == [3, 4, 5]
    said = capsys.readouterr()
    assert "lost=2" in said.out + said.err


def test_a_fit_that_fails_leaves_a_failed_run_and_the_next_attempt_takes_it_up(registry: ModelRegistry):
    with pytest.raises(ValueError, match="no luck"), live(registry):
        raise ValueError("no luck")
    assert runs(registry)[0].info.status == "FAILED"
    with live(registry):
        pass
    (run,) = runs(registry)
    assert run.info.status == "FINISHED"


def test_at_the_end_the_curve_is_completed_and_the_picture_lies_in_the_run(registry: ModelRegistry, tmp_path: Path):
    with live(registry) as logged:
        logged.log({"val_loss": 2.0}, step=10)
        logged.finish(CURVE, {"plots/learning.png": b"png"})
    assert history(registry, "val_loss") == [(10, 2.0), (20, 1.5)]
    (run,) = runs(registry)
    assert Path(registry.client.download_artifacts(run.info.run_id, "plots/learning.png")).read_bytes() == b"png"


def test_system_metrics_are_logged_under_mlflows_names(registry: ModelRegistry):
    with live(registry, sampler=lambda: SystemSampler().sample, sample_every_s=0.01) as logged:
        logged.log({"train_loss": 1.0}, step=7)
    (run,) = runs(registry)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= run.data.metrics.keys()
    assert 0 < run.data.metrics["system/system_memory_usage_percentage"] <= 100


# --- what register makes of it ---


@pytest.fixture
def record(tmp_path: Path) -> LoggedRun:
    files = tmp_path / "files"
    files.mkdir()
    (files / "metrics.json").write_text("{}")
    return LoggedRun(
        name="hybrid",
        params={"model.width": "32"},
        tags={"quantfleet.bars": "lake@1"},
        metrics={"test.sharpe": 1.25},
        curves=CURVE,
        files=files,
        fingerprint="f" * 16,
        fit=FIT.fit,
    )


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return store(tmp_path / "artifact")[0]


@pytest.fixture
def trained(registry: ModelRegistry) -> ModelRegistry:
    with live(registry) as logged:
        logged.log({"train_loss": 0.9, "val_loss": 2.0}, step=10)
    return registry


def register(registry: ModelRegistry, record: LoggedRun, artifact: Path, **changes: Any) -> int:
    experiment = registry.experiment("quickstart")
    parent = registry.parent_run(experiment, "quickstart", {})
    return registry.log_model(
        replace(record, **changes), artifact, experiment=experiment, parent=parent, model_name="indices"
    )


def test_a_model_is_registered_in_the_run_that_its_fit_opened(
    trained: ModelRegistry, record: LoggedRun, artifact: Path
):
    (fit,) = runs(trained)

    version = register(trained, record, artifact)

    (run,) = runs(trained)
    assert run.info.run_id == fit.info.run_id
    assert trained.client.get_model_version("indices", str(version)).run_id == fit.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.tags["quantfleet.bars"] == "lake@1"
    assert run.data.metrics["test.sharpe"] == 1.25
    assert history(trained, "val_loss") == [(10, 2.0), (20, 1.5)], "what the live log missed is completed"
    assert trained.load("indices", version=version)[1] == version
    assert register(trained, record, artifact) == version, "and the second time nothing is made"


def test_a_registration_cut_off_is_repeated_in_the_same_run_without_a_second_version_or_point(
    trained: ModelRegistry, record: LoggedRun, artifact: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.set_model_version_tag", interrupted)
        with pytest.raises(KeyboardInterrupt):
            register(trained, record, artifact)
    (fit,) = runs(trained)

    version = register(trained, record, artifact)

    (run,) = runs(trained)
    assert run.info.run_id == fit.info.run_id
    assert [int(v.version) for v in trained.client.search_model_versions("name = 'indices'")] == [version]
    models = trained.client.search_logged_models([run.info.experiment_id])
    assert len(models) == 1, "the unfinished one is gone"
    assert history(trained, "test.sharpe") == [(0, 1.25)]
    assert history(trained, "val_loss") == [(10, 2.0), (20, 1.5)]
    assert trained.load("indices", version=version)[1] == version


def test_the_same_fit_judged_by_other_rules_is_another_version_with_the_curve_in_a_run_of_its_own(
    trained: ModelRegistry, record: LoggedRun, artifact: Path
):
    first = register(trained, record, artifact)
    second = register(trained, record, artifact, fingerprint="other")
    assert (first, second) == (1, 2)
    assert len(runs(trained)) == 2
    run = trained.client.get_model_version("indices", "2").run_id
    assert [m.step for m in trained.client.get_metric_history(run, "val_loss")] == [10, 20]
    assert register(trained, record, artifact) == 1


def test_a_fit_trained_again_keeps_the_version_that_was_registered_from_it(
    trained: ModelRegistry, record: LoggedRun, artifact: Path
):
    version = register(trained, record, artifact)
    trained.open_fit(FIT)
    assert register(trained, record, artifact) == version
    assert trained.load("indices", version=version)[1] == version
