"""The register job: what it logs, what moves the alias, and what repairs it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from support.finished_run import finish_until_evaluate
from support.recipes import small_recipe, write_recipe
from support.stored_models import open_registry
from typer.testing import CliRunner

from quantfleet.config import Resolved
from quantfleet.errors import RegistryError
from quantfleet.registry.promotions import PromotionLog
from quantfleet.registry.store import ModelRegistry
from quantfleet.storage import Storage
from quantfleet_jobs.cli import app
from quantfleet_jobs.main import perform
from quantfleet_jobs.recipe import Recipe, load_recipe
from quantfleet_jobs.record import StageRecord
from quantfleet_jobs.register import STAGE
from quantfleet_models.naive import MovingAverageConfig

MODELS = ({"kind": "moving_average", "fast_bars": 2, "slow_bars": 5, "name": "challenger"}, {"kind": "buy_and_hold"})


def gates(threshold: float) -> list[dict[str, object]]:
    return [{"kind": "min_sharpe", "threshold": threshold, "resamples": 100}]


PROMOTED, HELD = gates(-100.0), gates(100.0)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables: once, then copied."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_registry(root).check()
    return root / "mlflow.db"


class Run:
    """A run that has everything but its registration."""

    def __init__(self, folder: Path, gates: list[dict[str, object]], name: str = "indices") -> None:
        self.recipe = folder / f"{name}.yaml"
        sections = {
            "gates": gates,
            "registry": {"model_name": "m"},
            "features": {"extra": [{"kind": "sma_ratio", "fast_bars": 2, "slow_bars": 5}]},
        }
        recipe = small_recipe(str(folder / "store"), models=MODELS, name=name, **sections)
        self.resolved: Resolved[Recipe] = load_recipe(str(write_recipe(folder, recipe)), environ={})
        self.storage = Storage(self.resolved.value.storage)
        self.registry = open_registry(folder / "store")
        finish_until_evaluate(self.resolved.value, self.storage)

    def register(self) -> StageRecord:
        return perform([STAGE], self.resolved, console=Console(quiet=True))["register"]

    @property
    def log(self) -> pl.DataFrame:
        return PromotionLog(self.storage).rows()


@pytest.fixture
def make(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """make(gates): a run in this test's store, whose moving average counts as a candidate."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(MovingAverageConfig, "baseline", property(lambda self: False))
    (tmp_path / "store").mkdir()
    shutil.copy(empty_database, tmp_path / "store" / "mlflow.db")
    return lambda gates, name="indices": Run(tmp_path, gates, name)


def test_a_promote_moves_the_alias_to_the_candidate_and_the_log_says_why(make: Callable[..., Run]):
    run = make(PROMOTED)
    made = run.register()
    version = made.outputs["versions"]["challenger"]
    assert run.registry.alias_version("m") == version == PromotionLog(run.storage).champion("m", "champion")
    assert dict(zip(run.log["candidate"], run.log["verdict"], strict=True)) == {
        "challenger": "PROMOTE",
        "buy_and_hold": "HOLD",
    }
    assert f"PROMOTE challenger (version {version})" in made.summary


def test_the_run_in_mlflow_says_how_often_its_test_period_was_looked_at(make: Callable[..., Run]):
    run = make(HELD)
    parent = run.register().outputs["parent_run"]
    assert run.registry.client.get_run(parent).data.tags["quantfleet.test_looks"] == "3"


def test_a_hold_leaves_the_alias_nowhere(make: Callable[..., Run]):
    run = make(HELD)
    run.register()
    assert set(run.log["verdict"]) == {"HOLD"}
    assert run.registry.alias_version("m") is None


def test_a_hold_leaves_the_alias_on_the_champion_before_it(make: Callable[..., Run]):
    champion = make(PROMOTED).register().outputs["versions"]["challenger"]
    later = make(HELD, "later")
    versions = later.register().outputs["versions"]
    assert champion not in versions.values(), "the later run made versions of its own"
    assert later.registry.alias_version("m") == champion


def test_a_crash_between_the_log_and_the_alias_is_repaired_by_the_same_command(
    make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
):
    run = make(PROMOTED)

    def crash(self: ModelRegistry, model_name: str, version: int) -> None:
        raise RegistryError("the server went away")

    with monkeypatch.context() as broken:
        broken.setattr(ModelRegistry, "move_alias", crash)
        with pytest.raises(RegistryError, match="went away"):
            run.register()
    assert run.log["verdict"].to_list().count("PROMOTE") == 1
    assert run.registry.alias_version("m") is None

    made = run.register()

    assert run.registry.alias_version("m") == made.outputs["versions"]["challenger"]
    assert run.log.height == 2, "decided once, though the job ran twice"
    assert len(run.registry.client.search_model_versions("name = 'm'")) == 2


def test_every_model_is_logged_with_its_settings_data_versions_metrics_and_files(
    make: Callable[..., Run], tmp_path: Path
):
    run = make(HELD)
    versions = run.register().outputs["versions"]
    client = run.registry.client
    for name, version in versions.items():
        logged = client.get_run(client.get_model_version("m", str(version)).run_id)
        assert logged.data.params["model.kind"] == ("moving_average" if name == "challenger" else name)
        assert logged.data.metrics["validation.sharpe"] == logged.data.metrics["test.sharpe"] == 1.5
        assert "test.ic" not in logged.data.metrics, "not known is not logged"
        assert logged.data.tags["quantfleet.bars"] == "lake/bars/1d@4"
        assert logged.data.tags["quantfleet.features"] == "lake/features/core@2"
        assert logged.data.tags["quantfleet.labels"] == "lake/labels/own@3"
        folder = Path(client.download_artifacts(logged.info.run_id, "", str(tmp_path)))
        assert json.loads((folder / "recipe.json").read_text())["run"]["name"] == "indices"
        assert json.loads((folder / "metrics.json").read_text())["test"]["sharpe"] == 1.5
        assert "test" in json.loads((folder / "split.json").read_text())
        for segment in ("validation", "test"):
            assert pl.read_parquet(folder / "predictions" / segment / "*.parquet").height == 1
            assert (folder / "backtest" / f"{segment}_curve.parquet").is_file()
        for plot in ("equity", "learning"):
            assert (folder / "plots" / f"{plot}.png").read_bytes().startswith(b"\x89PNG")


def test_an_occupied_output_is_refused_with_what_changed_and_stays_as_it_was(make: Callable[..., Run]):
    run = make(HELD)
    run.register()
    folder = Path(run.storage.uri("runs", "indices"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command = ["register", str(run.recipe), "--set", "gates.0.threshold=-100"]

    changed = CliRunner().invoke(app, command)

    assert changed.exit_code == 1
    (line,) = changed.stderr.splitlines()
    assert line.startswith("OutputExistsError: run 'indices' already holds the output of register")
    assert "gates.0.threshold from 100.0 to -100.0" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert run.log.height == 2
    assert run.registry.alias_version("m") is None

    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0
    assert run.registry.alias_version("m") is not None
