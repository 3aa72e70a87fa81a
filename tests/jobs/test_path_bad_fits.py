"""Fits that cannot be, through the real command on a real Ray: one clear error each, before workers start where it can be known."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.recipes import small_recipe, tiny_hybrid, write_recipe
from typer.testing import CliRunner

from quantfleet.storage import Storage, StorageConfig
from quantfleet.training.checkpoints import Progress, upload
from quantfleet.training.data_state import DataState
from quantfleet.training.preflight import fit_record
from quantfleet_data.chunks import ChunkStore
from quantfleet_jobs.cli import app
from quantfleet_jobs.fits import fit_name
from quantfleet_jobs.recipe import load_recipe
from quantfleet_jobs.record import RunRecord

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RUN = "bad-fits"
"""One of the runs of `prepared_store`."""


def recipe_of(store: Path, folder: Path, model: dict[str, Any], name: str = RUN, **sections: Any) -> Path:
    return write_recipe(folder, small_recipe(str(store), models=[model], name=name, log={"level": "ERROR"}, **sections))


def train(recipe: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["train", str(recipe)])
    return result.exit_code, " ".join(result.output.split())


def fits_begun(store: Path) -> list[Path]:
    return sorted((store / "train").glob("*/*")) if (store / "train").exists() else []


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "a batch larger than the shard": ({"batch_windows": 9_000_000}, {}, "ConfigError", "Lower it to"),
    "more workers than the cluster has": ({}, {"workers": 64}, "ClusterError", "the cluster has room for"),
    "a GPU where there is none": ({}, {"use_gpu": True}, "ClusterError", "the cluster has no GPU"),
    "a precision that CPUs have not": ({}, {"precision": "fp16"}, "ConfigError", "fp16 needs a GPU"),
    "offload without DeepSpeed": ({}, {"strategy": {"kind": "fsdp", "offload": True}}, "ConfigError", "offload"),
    "more workers than shards": ({}, {"workers": 2, "shards": 3}, "ConfigError", "shards"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_fit_that_cannot_be_is_refused_before_workers_start(
    what: str, local_ray: None, prepared_store: Path, tmp_path: Path
):
    model, training, error, word = REFUSED[what]
    before = fits_begun(prepared_store)
    code, output = train(recipe_of(prepared_store, tmp_path, tiny_hybrid(**model), training=training))
    assert (code, error in output, word in output) == (1, True, True), output
    assert "Traceback" not in output
    assert fits_begun(prepared_store) == before, "no worker has written anything"


def test_a_look_back_longer_than_the_history_is_refused_when_chunks_are_cut(prepared_store: Path, tmp_path: Path):
    shutil.copytree(prepared_store / "runs" / RUN, prepared_store / "runs" / "bad-history")
    (prepared_store / "runs" / "bad-history" / "stages" / "chunks.json").unlink()
    windows = {"lookback_bars": 50_000, "chunk_bars": 32}
    recipe = recipe_of(prepared_store, tmp_path, tiny_hybrid(), "bad-history", windows=windows)
    result = CliRunner().invoke(app, ["chunks", str(recipe)])
    output = " ".join(result.output.split())
    assert result.exit_code == 1
    assert "lookback_bars" in output
    assert "50000" in output.replace(",", "")
    assert "Traceback" not in output


def test_a_checkpoint_of_another_model_is_refused_with_what_differs_and_left_as_it_is(
    local_ray: None, prepared_store: Path, tmp_path: Path
):
    path = recipe_of(prepared_store, tmp_path, tiny_hybrid(name="mixed-up"))
    recipe = load_recipe(str(path)).value
    storage = Storage(StorageConfig(root=str(prepared_store)))
    chunks = ChunkStore.open(storage, str(RunRecord(storage, RUN).need("chunks", of="train").outputs["path"]))
    other = fit_record(replace(recipe.models[0], width=64), chunks.spec, seed=recipe.run.seed)
    local = tmp_path / "checkpoint"
    local.mkdir()
    Progress(fit=json.loads(json.dumps(other)), workers=1, data=DataState(plan="another")).write(local)
    fit = f"train/{fit_name(recipe.models[0], chunks.path, recipe)}"
    upload(storage, local, f"{fit}/checkpoint_2026-01-01_00-00-00.000000", rank=0, workers=1, retry_s=0)

    code, output = train(path)

    assert code == 1, output
    assert "TrainingError" in output
    assert "its model.width is 64, this fit's is 8" in output
    assert "Traceback" not in output
    assert storage.exists(fit, "checkpoint_2026-01-01_00-00-00.000000", "progress.json")
