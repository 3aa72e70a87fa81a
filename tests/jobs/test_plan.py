"""`quantfleet train RECIPE --plan` as a user calls it: figures before anything is launched, and no Ray."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.chunk_tables import chunks_of
from support.recipes import environment, small_recipe, tiny_hybrid, write_recipe
from typer.testing import CliRunner, Result

from quantfleet.plugins import load_plugins
from quantfleet.storage import Storage, StorageConfig
from quantfleet.training.torch_plan import ProcessCosts
from quantfleet.training.windows import WindowLoader
from quantfleet_data.chunks import ChunkStore
from quantfleet_jobs.cli import app
from quantfleet_jobs.recipe import BUILT_IN_PLUGINS
from quantfleet_jobs.record import RunRecord, StageRecord

MODELS = (tiny_hybrid(batch_windows=32, kernel_bars=2), {"kind": "xgboost", "rounds": 20}, {"kind": "buy_and_hold"})


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path, small_recipe(str(tmp_path / "store"), models=MODELS))


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    """Chunks that the run `small` has made."""
    storage = Storage(StorageConfig(root=str(tmp_path / "store")))
    made = chunks_of(storage)
    RunRecord(storage, "small").finish(
        StageRecord(stage="chunks", fingerprint="x", inputs={}, outputs={"path": made.path}, summary="", seconds=0.0)
    )
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command line in this process, measuring for a moment only; a hundred columns wide."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("quantfleet.training.torch_plan._MEASURE_S", 0.05)
    load_plugins(BUILT_IN_PLUGINS)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_plan_shows_memory_steps_time_and_bottleneck_within_a_hundred_columns(
    recipe: Path, store: ChunkStore, tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
):
    costs = ProcessCosts(seconds=3.0, bytes=400_000_000)
    for module in ("quantfleet.training.torch_plan", "quantfleet_models.boosted.plan"):
        monkeypatch.setattr(f"{module}.process_costs", lambda *_, **__: costs)
    done = run("train", str(recipe), "--plan")
    assert done.exit_code == 0, done.output
    said = done.stdout
    assert "Training of run small: 2 workers of 1 CPU, ddp. Nothing was launched." in said
    for name in ("ddp *", "fsdp", "ZeRO 1", "ZeRO 2", "ZeRO 3", "activations", "400 MB", "start-up", "bottleneck"):
        assert name in said
    assert "buy_and_hold (buy_and_hold): nothing is trained" in said
    assert "rounds     at most 20" in said
    (row,) = [line for line in said.splitlines() if "ddp *" in line]
    assert row.rstrip().endswith("MB"), "the sum is the last column"
    assert max(map(len, said.splitlines())) <= 100
    assert "…" not in said, "no cell is cut"
    assert not (tmp_path / "store" / "runs" / "small" / "models").exists(), "nothing was written to the run"
    assert not (tmp_path / "store" / "train").exists(), "no trainer was made"


@pytest.mark.slow
def test_the_plan_as_json_has_the_same_steps_as_the_loader_and_is_what_the_job_s_module_prints_too(
    store: ChunkStore, tmp_path: Path
):
    recipe = write_recipe(tmp_path, small_recipe(str(tmp_path / "store"), models=(MODELS[0], MODELS[2])))
    call = [sys.executable, "-m", "quantfleet_jobs.train", "--config", str(recipe), "--plan", "--format", "json"]
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        call, cwd=tmp_path, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    hybrid, naive = json.loads(done.stdout)["models"]
    loader = WindowLoader(store.reader("train"), batch_windows=32, buffer_chunks=64, seed=7, workers=2, rank=0)
    assert hybrid["units_per_epoch"] == len(loader)
    assert hybrid["units"] == 2 * len(loader)
    assert hybrid["windows"]["train"] == store.stats.targets["train"]
    assert hybrid["total_s"] == pytest.approx(sum(hybrid["seconds"].values()))
    assert naive["workers"] == 0


def test_a_run_without_chunks_says_which_command_makes_them(recipe: Path, run: Callable[..., Result]):
    done = run("train", str(recipe), "--plan")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("MissingInputError: train --plan reads what chunks makes")
    assert "quantfleet_jobs.chunks --config RECIPE" in line


def test_a_batch_larger_than_the_shard_is_refused_by_the_plan(
    tmp_path: Path, store: ChunkStore, run: Callable[..., Result]
):
    models = [tiny_hybrid(batch_windows=4096, kernel_bars=2)]
    done = run("train", str(write_recipe(tmp_path, small_recipe(str(tmp_path / "store"), models=models))), "--plan")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("ConfigError: hybrid.batch_windows=4096 asks 2048 windows a step of each of 2 shards")


def test_an_unknown_format_is_refused(recipe: Path, run: Callable[..., Result]):
    assert "neither table nor json" in run("train", str(recipe), "--plan", "--format", "xml").stderr
