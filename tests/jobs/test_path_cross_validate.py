"""Cross-validation for real: every fold trained on its own, tests put together into paths, and nothing of the final period."""

import json
from pathlib import Path

import polars as pl
import pytest
from support.recipes import NAIVE, small_recipe, write_recipe
from typer.testing import CliRunner

from quantfleet.registry.looks import LookLog
from quantfleet.storage import Storage, StorageConfig
from quantfleet_jobs.cli import app

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_paths_of_a_cross_validation_test_all_before_the_final_period_once_each(local_ray: None, tmp_path: Path):
    split = {
        "kind": "combinatorial_purged",
        "n_groups": 3,
        "n_test_groups": 2,
        "validation_fraction": 0.2,
        "final_fraction": 0.25,
    }
    root = tmp_path / "store"
    recipe = write_recipe(
        tmp_path, small_recipe(str(root), models=[{"kind": "ridge"}, *NAIVE], name="paths", split=split)
    )

    done = CliRunner().invoke(app, ["cross-validate", str(recipe)], env={"COLUMNS": "120"})

    assert done.exit_code == 0, done.output
    assert "3 folds by combinatorial_purged, 2 paths, after costs" in done.output
    storage = Storage(StorageConfig(root=str(root)))
    found = json.loads(storage.read_text("runs/paths/cross_validation.json"))
    assert [fold["run"] for fold in found["folds"]] == ["paths-fold-00", "paths-fold-01", "paths-fold-02"]
    assert set(found["scores"]) == set(found["spread"]) == {"ridge", "buy_and_hold", "moving_average", "zero_return"}
    assert all(spread["paths"] == 2 for spread in found["spread"].values())
    assert found["verdict"]["models"].keys() == {"ridge"}
    assert storage.exists("runs/paths/cross_validation.png")

    curves = [
        pl.read_parquet(root / "runs" / "paths" / "cross_validation" / "ridge" / f"path-{n:02d}.parquet")
        for n in (0, 1)
    ]
    assert curves[0]["timestamp"].to_list() == curves[1]["timestamp"].to_list(), "both test the same bars, each once"
    assert curves[0]["timestamp"].is_sorted()
    assert curves[0]["timestamp"].is_unique().all()
    assert (curves[0]["net_return"] != curves[1]["net_return"]).any(), "by other fits"
    held = [
        pl.read_parquet(root / "runs" / "paths" / "cross_validation" / "buy_and_hold" / f"path-{n:02d}.parquet")
        for n in (0, 1)
    ]
    assert held[0].equals(held[1]), "a model that learns nothing earns the same on every path"
    bars = pl.read_parquet(root / "lake" / "bars" / "1d" / "**" / "*.parquet")["timestamp"].unique().sort()
    assert curves[0]["timestamp"].max() < bars[-int(0.25 * len(bars))], "the final period stays unseen"
    assert LookLog(storage).rows()["run"].unique().sort().to_list() == [fold["run"] for fold in found["folds"]]

    again = CliRunner().invoke(app, ["cross-validate", str(recipe)], env={"COLUMNS": "120"})
    assert again.exit_code == 0, again.output
    assert again.output.count("train") >= 3
    assert "train starting" not in " ".join(again.output.split()), "what is done is kept"
    assert json.loads(storage.read_text("runs/paths/cross_validation.json")) == found
