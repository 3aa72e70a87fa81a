"""Profiler traces on demand: real torch operators, a real trace, nothing outside the window."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from quantfleet.storage import Storage, StorageConfig
from quantfleet.training.profile import StepProfiler


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


def train(profiler: StepProfiler, steps: range) -> None:
    weights = torch.ones(8, 8)
    for step in steps:
        profiler.before_step(step)
        with torch.profiler.record_function(f"step {step}"):
            torch.mm(weights, weights)
        profiler.after_step(step)
    profiler.close()


def recorded_steps(folder: Path) -> set[str]:
    events: list[dict[str, Any]] = json.loads(gzip.decompress((folder / "rank0.json.gz").read_bytes()))["traceEvents"]
    names = {event["name"] for event in events if "name" in event}
    assert "aten::mm" in names
    return {name for name in names if name.startswith("step ")}


def test_exactly_the_steps_asked_for_are_recorded(storage: Storage, tmp_path: Path):
    train(StepProfiler((2, 3), storage=storage, folder="runs/a/profile/m", rank=0), range(8))
    folder = tmp_path / "runs/a/profile/m"
    assert recorded_steps(folder) == {"step 2", "step 3", "step 4"}
    assert "aten::mm" in (folder / "rank0.txt").read_text()


def test_a_loop_that_ends_inside_the_window_writes_what_it_has(storage: Storage, tmp_path: Path):
    train(StepProfiler((2, 100), storage=storage, folder="profile", rank=0), range(4))
    assert recorded_steps(tmp_path / "profile") == {"step 2", "step 3"}


def test_a_fit_that_goes_on_inside_the_window_records_the_rest_and_one_beyond_it_nothing(
    storage: Storage, tmp_path: Path
):
    train(StepProfiler((2, 4), storage=storage, folder="inside", rank=0), range(4, 9))
    train(StepProfiler((2, 4), storage=storage, folder="beyond", rank=0), range(6, 9))
    assert recorded_steps(tmp_path / "inside") == {"step 4", "step 5"}
    assert not (tmp_path / "beyond").exists()


@pytest.mark.parametrize(("steps", "folder"), [(None, "profile"), ((0, 2), None)], ids=["no steps", "no folder"])
def test_without_steps_or_a_folder_nothing_is_recorded(steps: Any, folder: Any, storage: Storage, tmp_path: Path):
    train(StepProfiler(steps, storage=storage, folder=folder, rank=0), range(4))
    assert list(tmp_path.iterdir()) == []


def test_a_trace_that_cannot_be_written_is_logged_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "root").write_text("a file where the folder should be")
    storage = Storage(StorageConfig(root=str(tmp_path / "root")))
    train(StepProfiler((0, 1), storage=storage, folder="profile", rank=0), range(2))
    captured = capsys.readouterr()
    assert "the profiler trace could not be written" in captured.out + captured.err
