"""Weights for other programs: the parts that workers saved become one safetensors file, without a cluster."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.fits import SHARDS, best_of, fit_task
from support.gang import run_gang

from quantfleet.errors import ConfigError, MissingInputError
from quantfleet.storage import Storage, StorageConfig
from quantfleet.training import DDPConfig, DeepSpeedConfig, FSDPConfig, StrategyConfig, TrainingConfig
from quantfleet.training.export import export_best, export_newest
from quantfleet.training.loop import fit_on_worker

STRATEGIES = {
    "ddp": DDPConfig(),
    "fsdp": FSDPConfig(),
    "zero-2": DeepSpeedConfig(zero_stage=2),
    "zero-3": DeepSpeedConfig(zero_stage=3),
}


def fitted(root: Path, strategy: StrategyConfig) -> Storage:
    if strategy.kind == "deepspeed":
        pytest.importorskip(
            "deepspeed", reason="the extra `deepspeed` is not installed: pip install 'quantfleet[deepspeed]'"
        )
    task = fit_task(root, TrainingConfig(workers=2, shards=SHARDS, strategy=strategy))
    run_gang(fit_on_worker, {"task": task}, workers=2, folder=root)
    return task.storage


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_newest_checkpoint_of_any_strategy_becomes_one_file(name: str, tmp_path: Path):
    storage = fitted(tmp_path / "store", STRATEGIES[name])
    made = export_newest(storage, "train/fit", tmp_path / "out" / "newest")

    assert best_of(tmp_path / "store").epoch == 1, "the last epoch was the best, so both must hold the same weights"
    best = load_file(tmp_path / "store" / best_of(tmp_path / "store").path / "weights.safetensors")
    newest = load_file(made.folder / "weights.safetensors")
    assert newest.keys() <= best.keys()
    assert {"network.embed.weight"} <= newest.keys()
    for key, value in newest.items():
        np.testing.assert_array_equal(value, best[key], err_msg=key)
    assert (made.epoch, made.step) == (2, 12)
    assert json.loads((made.folder / "export.json").read_text())["step"] == 12
    assert (made.folder / "scaler.json").is_file()


def test_the_best_weights_are_copied_with_what_was_done_to_the_inputs(tmp_path: Path):
    storage = fitted(tmp_path / "store", DDPConfig())
    made = export_best(storage, "train/fit", tmp_path / "best")
    assert {path.name for path in made.folder.iterdir()} == {"weights.safetensors", "scaler.json", "export.json"}
    assert made.parameters == sum(v.size for v in load_file(made.folder / "weights.safetensors").values())


def test_a_torn_newest_checkpoint_is_passed_over(tmp_path: Path):
    storage = fitted(tmp_path / "store", DDPConfig())
    newest = max((tmp_path / "store" / "train" / "fit").glob("checkpoint_*"))
    (newest / "state.pt").write_bytes(b"half")
    assert export_newest(storage, "train/fit", tmp_path / "out").step == 6


def test_what_cannot_be_exported_is_one_clear_error_and_nothing_is_written(tmp_path: Path):
    storage = Storage(StorageConfig(root=str(tmp_path / "store")))
    with pytest.raises(MissingInputError, match="holds no whole checkpoint"):
        export_newest(storage, "train/fit", tmp_path / "out")
    with pytest.raises(MissingInputError, match="no epoch of the fit is over"):
        export_best(storage, "train/fit", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="exists already"):
        export_best(storage, "train/fit", tmp_path)
