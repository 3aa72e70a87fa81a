"""Checkpoints on disk: whole or torn, to the byte; and which weights are kept as the best."""

import json
from pathlib import Path

import pytest
import ray

from quantfleet.errors import TornCheckpointError, TrainingError
from quantfleet.storage import Storage, StorageConfig
from quantfleet.training.checkpoints import (
    Progress,
    best_weights,
    check_stored_fit,
    keep_best,
    mend_snapshot,
    stored_checkpoints,
    sweep,
    upload,
    verify,
)
from quantfleet.training.data_state import DataState


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A checkpoint of two workers, uploaded by each."""
    storage = Storage(StorageConfig(root=str(tmp_path / "store")))
    for rank in range(2):
        local = tmp_path / f"rank{rank}"
        (local / "state").mkdir(parents=True)
        (local / "state" / f"part{rank}.pt").write_bytes(bytes([rank]) * 100)
        if rank == 0:
            Progress(fit={"model": 1}, workers=2, data=DataState(plan="p", step=3)).write(local)
        upload(storage, local, "train/fit/checkpoint", rank=rank, workers=2, retry_s=0)
    return tmp_path / "store" / "train" / "fit" / "checkpoint"


def test_a_whole_checkpoint_says_how_many_workers_wrote_it(whole: Path):
    assert verify(whole) == 2
    assert Progress.read(whole).data == DataState(plan="p", step=3)


@pytest.mark.parametrize(
    "file", ["state/part0.pt", "state/part1.pt", "progress.json", "manifest-00000.json", "manifest-00001.json"]
)
def test_a_missing_file_makes_it_torn(whole: Path, file: str):
    (whole / file).unlink()
    with pytest.raises(TornCheckpointError, match=file.rpartition("/")[2].partition("-")[0]):
        verify(whole)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b[:50] + b"\xff" + b[51:], lambda b: b""]
)
def test_a_changed_byte_makes_it_torn(whole: Path, damage):
    path = whole / "state" / "part1.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TornCheckpointError, match=r"part1\.pt is not as it was written"):
        verify(whole)


@pytest.mark.parametrize("text", ["", "{", '{"format": 99}', "[]"])
def test_progress_that_cannot_be_read_makes_it_torn(whole: Path, text: str):
    (whole / "progress.json").write_text(text)
    with pytest.raises(TornCheckpointError, match=r"progress\.json cannot be read"):
        Progress.read(whole)


def fit_of(storage: Storage, name: str, width: int) -> None:
    local = Path(storage.path("local", name))
    local.mkdir(parents=True)
    Progress(fit={"model": {"width": width}}, workers=1, data=DataState(plan="p")).write(local)
    upload(storage, local, f"train/fit/checkpoint_{name}", rank=0, workers=1, retry_s=0)


def test_the_newest_checkpoint_that_can_be_read_must_be_of_the_fit_that_would_go_on_from_it(tmp_path: Path):
    storage, fit = Storage(StorageConfig(root=str(tmp_path))), {"model": {"width": 8}}
    check_stored_fit(storage, "train/fit", fit, retry_s=0)  # nothing is stored
    fit_of(storage, "1", 16)
    fit_of(storage, "2", 8)
    check_stored_fit(storage, "train/fit", fit, retry_s=0)
    for damage in ("", "{", "[]", '{"format": 1}'):
        storage.write_text("train/fit/checkpoint_2/progress.json", damage)
        with pytest.raises(TrainingError, match=r"its model\.width is 16, this fit's is 8"):
            check_stored_fit(storage, "train/fit", fit, retry_s=0)


def test_only_the_best_weights_are_kept_and_half_deleted_ones_do_not_count(tmp_path: Path):
    storage = Storage(StorageConfig(root=str(tmp_path / "store")))
    local = tmp_path / "local"
    local.mkdir()
    for epoch, loss in enumerate((0.5, 0.3, 0.4, 0.2)):
        (local / "weights.safetensors").write_bytes(bytes([epoch]) * 10)
        keep_best(storage, "train/fit", local, {"epoch": epoch, "val_loss": loss}, keep=2, retry_s=0)
    assert [(b.epoch, b.val_loss) for b in best_weights(storage, "train/fit")] == [(3, 0.2), (1, 0.3)]
    best = best_weights(storage, "train/fit")[0]
    best.fetch(storage, tmp_path / "fetched")
    assert (tmp_path / "fetched" / "weights.safetensors").read_bytes() == bytes([3]) * 10
    storage.write_bytes(f"{best.path}/weights.safetensors", b"other")
    with pytest.raises(TornCheckpointError, match="not as it was written"):
        best.fetch(storage, tmp_path / "again")
    storage.delete(f"{best.path}/epoch.json")
    assert [b.epoch for b in best_weights(storage, "train/fit")] == [1]


def test_progress_knows_the_best_epoch_and_how_long_ago_it_was():
    rows = tuple({"epoch": float(i), "val_loss": loss} for i, loss in enumerate((0.5, 0.3, 0.4, 0.35)))
    progress = Progress(fit={}, workers=1, data=DataState(plan="p"), curve=rows)
    assert progress.best == rows[1]
    assert progress.patience_spent() == 2
    assert Progress(fit={}, workers=1, data=DataState(plan="p")).patience_spent() == 0
    assert json.dumps(rows[0])


SNAPSHOT = "train/fit/checkpoint_manager_snapshot.json"


@pytest.fixture
def fit_folder(tmp_path: Path) -> Storage:
    """A fit with three checkpoints; the upload of the third never came to its end."""
    storage = Storage(StorageConfig(root=str(tmp_path)))
    for name in ("checkpoint_1", "checkpoint_2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.pt").write_bytes(b"weights")
        upload(storage, tmp_path / name, f"train/fit/{name}", rank=0, workers=1, retry_s=0)
    storage.write_text("train/fit/checkpoint_3/state.pt", "half of")
    return storage


def test_stored_checkpoints_are_found_newest_first_without_those_half_uploaded(fit_folder: Storage):
    assert stored_checkpoints(fit_folder, "train/fit") == ["train/fit/checkpoint_2", "train/fit/checkpoint_1"]
    assert stored_checkpoints(fit_folder, "train/another") == []


def snapshot(version: str = ray.__version__, names: tuple[str, ...] = ("checkpoint_1",)) -> str:
    results = [{"checkpoint_dir_name": name, "metrics": {}} for name in names]
    return json.dumps({"ray_version": version, "checkpoint_results": results})


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        (snapshot(), True),
        (snapshot()[:-5], False),
        ("", False),
        (snapshot(version="1.0"), False),
        (snapshot(names=("checkpoint_1", "checkpoint_0")), False),
    ],
    ids=["whole", "torn", "empty", "of another Ray", "naming a checkpoint that is gone"],
)
def test_rays_list_is_dropped_where_ray_could_not_start_from_it(fit_folder: Storage, text: str, stays: bool):
    fit_folder.write_text(SNAPSHOT, text)
    mend_snapshot(fit_folder, "train/fit")
    assert fit_folder.exists(SNAPSHOT) is stays


@pytest.mark.parametrize(
    ("listed", "left"),
    [(["checkpoint_2"], ["2", "3"]), (["checkpoint_1"], ["1", "2", "3"]), ([], ["1", "2", "3"])],
    ids=["older ones go", "newer ones stay", "nothing is known, nothing goes"],
)
def test_what_kills_left_behind_is_swept(fit_folder: Storage, listed: list[str], left: list[str]):
    sweep(fit_folder, "train/fit", listed)
    assert fit_folder.list("train/fit") == [f"checkpoint_{number}" for number in left]
