"""XGBoost and LightGBM from shards: the same trees as the libraries alone, in and out of memory, interrupted or not.

Shapes: R rows, G features, K label columns.
"""

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace

import lightgbm
import numpy as np
import pytest
import xgboost
from support.row_models import Reports, context, learnable_data, lone_lightgbm, task_of

from quantfleet.errors import ConfigError, SchemaError, TrainingError
from quantfleet.testing.training_data import MemoryReader
from quantfleet.training.boosting import BoostedFit, Progress, fit_on_worker
from quantfleet.training.checkpoints import fetch_newest
from quantfleet.training.rows import RowReader, Share
from quantfleet.training.single_task import all_rows
from quantfleet_models.boosted import XGBoostConfig
from quantfleet_models.boosted import model as xgboost_model
from quantfleet_models.lightgbm import LightGBMConfig

ALONE = Share(0, 1)
QUICK = {"rounds": 12, "checkpoint_every_rounds": 4, "min_child_weight": 2.0, "learning_rate": 0.3}
FAMILIES = [
    pytest.param(XGBoostConfig(**QUICK), xgboost_model.grower, id="xgboost"),
    pytest.param(XGBoostConfig(**QUICK, external_memory="always"), xgboost_model.grower, id="xgboost-on-disk"),
    pytest.param(LightGBMConfig(**QUICK), lone_lightgbm, id="lightgbm"),
]


def in_small_batches(task, chunks: int = 3):
    """The same task, whose readers give so many chunks at a time."""
    spec = task.spec
    size = 4 * spec.chunk_rows * spec.features * chunks
    readers = {name: dataclasses.replace(reader, batch_bytes=size) for name, reader in task.readers.items()}
    return dataclasses.replace(task, readers=readers)


def fitted(config, make_grower, data, folder: Path, share: Share = ALONE):
    """The model after a whole fit, and its curve."""
    task = in_small_batches(task_of(config, data))
    reports = Reports(task, folder)
    with make_grower(task, share, None) as grower:
        progress = reports.boost(grower, Progress())
    model = config.build(data.spec)
    model.load(reports.kept[-1])
    return model, progress


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 50])
def test_every_chunk_belongs_to_exactly_one_worker_whatever_their_number(workers: int):
    shares = [Share(rank, workers).places(36) for rank in range(workers)]
    assert np.concatenate(shares).tolist() == list(range(36))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rows_are_the_counted_targets_whose_labels_are_all_known_with_standardised_labels():
    data = learnable_data()
    reader = in_small_batches(task_of(XGBoostConfig(), data)).readers["train"]
    x_RF, y_RK = data.rows("train")
    known = np.isfinite(y_RK).all(1)
    rows = all_rows(reader)
    np.testing.assert_array_equal(rows.x_RG, x_RF[known])
    expected = (y_RK[known] - data.stats.label_mean_K) / data.stats.label_std_K
    np.testing.assert_allclose(rows.y_RK, expected, rtol=1e-5, atol=1e-6)
    assert len(rows) <= reader.most_rows(workers=1) == data.stats.targets["train"]


# --- the same as the libraries alone ----------------------------------------------------------------------------------


def test_xgboost_makes_the_trees_that_the_library_makes_of_the_same_rows(tmp_path: Path):
    data = learnable_data()
    config = XGBoostConfig(**QUICK | {"subsample": 1.0, "column_sample": 1.0})
    model, progress = fitted(config, xgboost_model.grower, data, tmp_path)
    rows = all_rows(task_of(config, data).readers["train"])
    peer = xgboost.train(
        {"eta": 0.3, "max_depth": config.max_depth, "min_child_weight": 2.0, "lambda": 5.0, "nthread": 1},
        xgboost.QuantileDMatrix(rows.x_RG, label=rows.y_RK, weight=rows.weight_R, nthread=1),
        num_boost_round=progress.best,
    )
    np.testing.assert_allclose(model._answer(rows.x_RG), peer.inplace_predict(rows.x_RG), rtol=1e-5, atol=1e-5)


def test_lightgbm_side_by_side_makes_the_trees_of_one_booster_for_each_label(tmp_path: Path):
    data = learnable_data()
    config = LightGBMConfig(**QUICK | {"subsample": 1.0, "column_sample": 1.0})
    model, progress = fitted(config, lone_lightgbm, data, tmp_path)
    rows = all_rows(task_of(config, data).readers["train"])
    settings = {
        "objective": "regression", "boost_from_average": False, "learning_rate": 0.3, "num_leaves": 15, "max_depth": 6,
        "min_sum_hessian_in_leaf": 2.0, "min_data_in_leaf": 1, "lambda_l2": 5.0, "max_bin": 256, "verbosity": -1,
        "num_threads": 1,
    }  # fmt: skip
    for k in range(rows.y_RK.shape[1]):
        peer = lightgbm.train(
            settings,
            lightgbm.Dataset(rows.x_RG, label=rows.y_RK[:, k].copy(), weight=rows.weight_R),
            num_boost_round=progress.best,
        )
        np.testing.assert_allclose(model._answer(rows.x_RG)[:, k], peer.predict(rows.x_RG), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("config", "make_grower"), FAMILIES)
def test_the_reported_errors_are_those_of_the_answers(config, make_grower, tmp_path: Path):
    data = learnable_data()
    model, progress = fitted(config, make_grower, data, tmp_path)
    rows = all_rows(task_of(config, data).readers["validation"])
    error = np.sqrt(np.mean((model._answer(rows.x_RG) - rows.y_RK) ** 2))
    assert progress.curve[progress.best - 1][1] == pytest.approx(error, rel=1e-5)
    assert progress.curve[-1][0] < 0.9, "it learnt something"


def test_xgboost_on_disk_and_in_memory_make_the_same_trees_and_the_disk_is_left_clean(tmp_path: Path, monkeypatch):
    data, answers = learnable_data(), []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    for way in ("never", "always"):
        config = XGBoostConfig(**QUICK | {"subsample": 1.0}, external_memory=way)
        model, _ = fitted(config, xgboost_model.grower, data, tmp_path / way)
        answers.append(model._answer(data.rows("test")[0]))
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-5, atol=1e-5)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_auto_goes_by_the_largest_share_and_a_gpu_gets_no_pages_on_disk():
    data = learnable_data(chunks=40)
    reader = task_of(XGBoostConfig(), data).readers["train"]
    assert not xgboost_model._fits(XGBoostConfig(memory_mb=1), dataclasses.replace(reader, chunks=_Many(reader)), 2)
    assert xgboost_model._fits(XGBoostConfig(memory_mb=1), reader, 2)
    config = XGBoostConfig()
    assert xgboost_model.uses_external_memory(config, fits=False, use_gpu=False)
    assert not xgboost_model.uses_external_memory(config, fits=True, use_gpu=False)
    assert not xgboost_model.uses_external_memory(config, fits=False, use_gpu=True)
    with pytest.raises(ConfigError, match="external_memory=always keeps pages on disk, which XGBoost reads on the CPU"):
        xgboost_model.uses_external_memory(XGBoostConfig(external_memory="always"), fits=True, use_gpu=True)


class _Many(MemoryReader):
    """Says that every chunk has a thousand times the targets."""

    def __init__(self, reader: RowReader) -> None:
        super().__init__(reader.chunks.spec, reader.chunks.batch)

    def index(self):
        index = super().index()
        return dataclasses.replace(index, targets_P=index.targets_P * 1000)


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed_after", [4, 8])
@pytest.mark.parametrize(("config", "make_grower"), FAMILIES)
def test_a_fit_that_goes_on_from_a_checkpoint_makes_the_trees_of_one_that_was_never_interrupted(
    config, make_grower, killed_after: int, tmp_path: Path
):
    data = learnable_data()
    whole, progress = fitted(config, make_grower, data, tmp_path / "whole")
    task = in_small_batches(task_of(config, data))
    first = Reports(task, tmp_path / "first", stop_after=killed_after)
    with make_grower(task, ALONE, None) as grower:
        first.boost(grower, Progress())
    left = first.kept[-1]
    second = Reports(task, tmp_path / "second")
    with make_grower(task, ALONE, left) as grower:
        gone_on = second.boost(grower, Progress.load(left))
    np.testing.assert_allclose(gone_on.curve, progress.curve, rtol=1e-6)
    model = config.build(data.spec)
    model.load(second.kept[-1])
    rows_RF = data.rows("test")[0]
    np.testing.assert_allclose(model._answer(rows_RF), whole._answer(rows_RF), rtol=1e-5, atol=1e-6)


def test_on_a_worker_the_share_comes_from_ray_train_and_a_finished_fit_reports_nothing_more(
    monkeypatch, tmp_path: Path
):
    fit, reported = on_a_lone_worker(monkeypatch, tmp_path, rounds=12)
    fit_on_worker({"fit": fit})
    assert [row["round"] for row in reported] == [4, 8, 12]
    assert set(reported[0]) == {"round", "rounds", "train_rmse", "val_rmse"}
    fit_on_worker({"fit": fit})
    assert len(reported) == 3
    assert fetch_newest(fit.storage, fit.run, tmp_path / "newest", retry_s=0) is not None
    model = fit.task.config.build(fit.task.spec)
    model.load(tmp_path / "newest")
    assert model._trees == 3 * Progress.load(tmp_path / "newest").best


def test_a_fit_goes_on_from_the_newest_whole_checkpoint_in_storage_and_passes_over_a_torn_one(
    monkeypatch, tmp_path: Path
):
    fit, reported = on_a_lone_worker(monkeypatch, tmp_path, rounds=12)
    fit_on_worker({"fit": fit})
    newest = max((tmp_path / fit.run).iterdir())
    (newest / "booster.ubj").write_bytes(b"half of it")
    again, reported = on_a_lone_worker(monkeypatch, tmp_path, rounds=12)
    fit_on_worker({"fit": again})
    assert [row["round"] for row in reported] == [12], "rounds 1 to 8 are not grown again"
    assert fetch_newest(fit.storage, fit.run, tmp_path / "mended", retry_s=0) is not None
    assert Progress.load(tmp_path / "mended").resumed_from == 8


def test_a_checkpoint_of_other_settings_is_refused(monkeypatch, tmp_path: Path):
    fit, _ = on_a_lone_worker(monkeypatch, tmp_path, rounds=4)
    fit_on_worker({"fit": fit})
    other, reported = on_a_lone_worker(monkeypatch, tmp_path, rounds=8)
    with pytest.raises(TrainingError, match=r"its model\.rounds is 4, this fit's is 8"):
        fit_on_worker({"fit": other})
    assert reported == []


def on_a_lone_worker(monkeypatch, folder: Path, *, rounds: int):
    """Ray Train's part, played for one worker: a fit to hand over and the list that its reports will be put in."""
    data, config = learnable_data(), XGBoostConfig(**(QUICK | {"rounds": rounds}))
    given = context(folder)
    fit = BoostedFit(
        task=task_of(config, data, workers=5), make_grower=xgboost_model.grower, storage=given.storage, run="train/here",
        fit={"model": {"rounds": rounds}}, retry_s=0,
    )  # fmt: skip
    reported: list[dict] = []

    def report(metrics, checkpoint, checkpoint_upload_fn):
        checkpoint_upload_fn(checkpoint, f"checkpoint_{time.time_ns()}")
        reported.append(metrics)

    world = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr("ray.train.get_context", lambda: world)
    monkeypatch.setattr("ray.train.report", report)
    return fit, reported


@pytest.mark.parametrize(("config", "make_grower"), FAMILIES)
def test_boosting_stops_when_validation_rises_and_keeps_the_best_round(config, make_grower, tmp_path: Path):
    data = learnable_data()
    data.batches["validation"].y_BCK[...] = np.random.default_rng(1).normal(size=data.batches["validation"].y_BCK.shape)
    config = dataclasses.replace(config, rounds=100, patience_rounds=3, checkpoint_every_rounds=7)
    model, progress = fitted(config, make_grower, data, tmp_path)
    assert progress.finished
    assert progress.rounds == progress.best + 3 < 100
    assert model._trees == progress.best * len(data.spec.label_columns)


def test_progress_that_is_damaged_or_not_finite_is_said(tmp_path: Path):
    with pytest.raises(TrainingError, match="does not say how far boosting came"):
        Progress.load(tmp_path)
    with pytest.raises(TrainingError, match="errors after round 1 are nan on training"):
        Progress().add(XGBoostConfig(), float("nan"), 1.0)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "make_grower"), FAMILIES)
def test_a_worker_without_a_training_row_says_how_many_workers_there_may_be(config, make_grower, tmp_path: Path):
    data = learnable_data(chunks=2)
    task = task_of(config, data)
    with (
        pytest.raises(
            ConfigError, match=r"worker 49 of 50 has no training row; the segment has 6 chunks.*to 6 or less"
        ),
        make_grower(task, Share(49, 50), None),
    ):
        pass


def test_lightgbm_without_a_split_worth_making_says_so(tmp_path: Path):
    data = learnable_data(chunks=2)
    with pytest.raises(TrainingError, match=r"found no split to make.*min_child_weight=1000000"):
        fitted(LightGBMConfig(**QUICK | {"min_child_weight": 1e6}), lone_lightgbm, data, tmp_path)


def test_lightgbm_on_a_gpu_that_is_not_there_says_what_to_do(tmp_path: Path):
    data = learnable_data()
    task = task_of(LightGBMConfig(**QUICK), data, use_gpu=True)
    with (
        pytest.raises(ConfigError, match=r"this build of LightGBM cannot use the GPU here.*fit xgboost"),
        lone_lightgbm(task, ALONE, None) as grower,
    ):
        Reports(task, tmp_path).boost(grower, Progress())


@pytest.mark.parametrize(("config", "make_grower"), FAMILIES)
def test_trees_of_other_data_or_damaged_ones_are_refused(config, make_grower, tmp_path: Path):
    model, _ = fitted(config, make_grower, learnable_data(), tmp_path / "fit")
    (tmp_path / "saved").mkdir()
    model.save(tmp_path / "saved")
    wider = learnable_data(features=6)
    with pytest.raises(SchemaError, match="reads 5 features, the data have 6"):
        config.build(wider.spec).load(tmp_path / "saved")
    for path in (tmp_path / "saved").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 3])
        with pytest.raises(SchemaError):
            config.build(learnable_data().spec).load(tmp_path / "saved")
        path.write_bytes(content)


def test_a_segment_without_a_target_is_refused_before_workers_start():
    data = learnable_data()
    data.batches["validation"].mask_BC[...] = False
    with pytest.raises(ConfigError, match="the validation segment has no target that counts"):
        XGBoostConfig().build(data.spec)._task(data, context())
