"""`quantfleet train --resume` and `quantfleet export` as a user calls them; no Ray."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.chunk_tables import chunks_of
from support.recipes import environment, small_recipe, tiny_hybrid, write_recipe
from typer.testing import CliRunner, Result

from quantfleet.storage import Storage, StorageConfig
from quantfleet.training.checkpoints import keep_best
from quantfleet.transforms import InputTransform
from quantfleet_data.chunks import ChunkStore
from quantfleet_jobs.cli import app
from quantfleet_jobs.fits import fit_name
from quantfleet_jobs.recipe import load_recipe
from quantfleet_jobs.record import RunRecord, StageRecord

MODELS = (tiny_hybrid(kernel_bars=2), {"kind": "buy_and_hold"})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path / "store")))


@pytest.fixture
def fit(tmp_path: Path, storage: Storage) -> str:
    """The folder of the hybrid's fit in run `small`, whose chunks are there; nothing is trained yet."""
    chunks = chunks_of(storage).path
    RunRecord(storage, "small").finish(
        StageRecord(stage="chunks", fingerprint="x", inputs={}, outputs={"path": chunks}, summary="", seconds=0.0)
    )
    recipe = load_recipe(str(write_recipe(tmp_path, small_recipe(str(tmp_path / "store"), models=MODELS)))).value
    return f"train/{fit_name(recipe.models[0], chunks, recipe)}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The stages that were started, none of which does anything."""
    stages: list[Any] = []
    monkeypatch.setattr("quantfleet_jobs.main.perform", lambda asked, *_, **__: stages.extend(s.name for s in asked))
    return stages


def said(result: Result) -> str:
    return " ".join(result.output.split())


def test_resume_without_a_checkpoint_is_an_error_and_starts_nothing(
    fit: str, run: Callable[..., Result], performed: list[Any]
):
    result = run("train", "small.yaml", "--resume")
    assert result.exit_code == 1
    assert "there is nothing to resume: no model of run 'small' has a checkpoint with these settings" in said(result)
    assert "Leave --resume away to begin" in said(result)
    assert performed == []


def test_resume_names_the_fits_that_other_settings_have_left(
    fit: str, storage: Storage, run: Callable[..., Result], performed: list[Any]
):
    storage.write_text(f"{fit}/checkpoint_1/manifest-00000.json", "{}")
    result = run("train", "small.yaml", "--resume", "--set", "run.seed=77")
    assert result.exit_code == 1
    assert f"fits with other settings: {fit.removeprefix('train/')}" in said(result).replace("- ", "-")
    assert performed == []


def test_resume_goes_on_where_there_is_a_checkpoint(
    fit: str, storage: Storage, run: Callable[..., Result], performed: list[Any]
):
    storage.write_text(f"{fit}/checkpoint_1/manifest-00000.json", "{}")
    result = run("train", "small.yaml", "--resume")
    assert (result.exit_code, performed) == (0, ["train"])


def test_the_best_weights_are_exported_to_a_folder_of_the_users(
    fit: str, storage: Storage, tmp_path: Path, run: Callable[..., Result]
):
    (tmp_path / "local").mkdir()
    save_file({"network.w": np.ones((2, 3), np.float32)}, tmp_path / "local" / "weights.safetensors")
    keep_best(storage, fit, tmp_path / "local", {"epoch": 4.0, "val_loss": 0.5}, keep=1, retry_s=0)
    result = run("export", "small.yaml", "hybrid", "weights")
    assert result.exit_code == 0, result.output
    assert said(result).startswith("6 parameters of hybrid at epoch 4: weights")
    assert load_file(tmp_path / "weights" / "weights.safetensors")["network.w"].shape == (2, 3)


def test_a_fit_is_exported_as_a_graph_that_answers(
    fit: str, storage: Storage, tmp_path: Path, run: Callable[..., Result]
):
    onnx = pytest.importorskip("quantfleet.serving.onnx", reason="pip install 'quantfleet[onnx]'")
    chunks = ChunkStore.open(storage, str(RunRecord(storage, "small").need("chunks", of="train").outputs["path"]))
    model = load_recipe(str(tmp_path / "small.yaml")).value.models[0].build(chunks.spec)
    model.inputs = InputTransform.fit(chunks, scaler=model.config.scaler, selection=None)
    (tmp_path / "local").mkdir()
    model.save(tmp_path / "local")
    keep_best(storage, fit, tmp_path / "local", {"epoch": 4.0, "val_loss": 0.5}, keep=1, retry_s=0)
    result = run("export", "small.yaml", "hybrid", "graph", "--format", "onnx", "--rows", "2")
    assert result.exit_code == 0, result.output
    assert said(result).startswith("hybrid as a graph of windows, 0.")
    batch, L = next(chunks.read("test")), chunks.spec.lookback_bars
    names = [chunks.spec.symbols[i] for i in batch.symbol_id_B[:2]]
    answer = onnx.OnnxWindows(tmp_path / "graph").answer(np.ascontiguousarray(batch.x_BTF[:2, :L]), names)
    np.testing.assert_allclose(answer["return"], model.predict(batch).return_BCH[:2, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--format", "pickle"), "'pickle' is neither safetensors nor onnx"),
        (("--format", "onnx", "--newest"), "a graph is made of the best epoch"),
        (("--int8",), "add --format onnx"),
        (("--format", "onnx"), "ended before its first epoch was over"),
    ],
)
def test_an_export_that_cannot_be_is_one_clear_error(
    fit: str, run: Callable[..., Result], options: tuple[str, ...], error: str
):
    result = run("export", "small.yaml", "hybrid", "graph", *options)
    assert result.exit_code in (1, 2)
    assert error in " ".join(said(result).replace("│", " ").split())
    assert not Path("graph").exists()


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("hybird", "the recipe has no torch model 'hybird'. Did you mean 'hybrid'? It has: hybrid."),
        ("buy_and_hold", "the recipe has no torch model 'buy_and_hold'. It has: hybrid."),
        ("hybrid", "holds no best weights: no epoch of the fit is over."),
    ],
)
def test_what_cannot_be_exported_is_one_clear_error(fit: str, run: Callable[..., Result], model: str, error: str):
    result = run("export", "small.yaml", model, "weights")
    assert result.exit_code == 1
    assert error in said(result)
    assert not Path("weights").exists()
