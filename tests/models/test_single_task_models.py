"""CatBoost, linear models, trees and support vectors: answers of the libraries alone, stored without code, refused with a reason.

Shapes: R rows, G features, K label columns.
"""

import builtins
import sys
from pathlib import Path

import catboost
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVR
from support.row_models import context, learnable_data, task_of

from quantfleet.errors import ConfigError, SchemaError
from quantfleet.testing import check_model_contract
from quantfleet.training.single_task import SingleTaskModel, all_rows, fit_here
from quantfleet_data.scaling import RobustScalerConfig, RollingScalerConfig
from quantfleet_data.selection import CorrelationSelectorConfig
from quantfleet_models.catboost import CatBoostConfig
from quantfleet_models.forest import RandomForestConfig
from quantfleet_models.hist_boosting import HistBoostingConfig
from quantfleet_models.linear import LogisticConfig, RidgeConfig
from quantfleet_models.svm import SVMConfig

CONFIGS = [
    CatBoostConfig(rounds=20, learning_rate=0.3),
    RandomForestConfig(trees=10, min_leaf_rows=5),
    RidgeConfig(),
    HistBoostingConfig(rounds=15, min_leaf_rows=5, learning_rate=0.3),
    SVMConfig(rows=150),
    LogisticConfig(),
]


def fitted(config, data):
    model = config.build(data.spec)
    fit_here(model, task_of(config, data))
    return model


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits run in this process, where they start a Ray task."""

    def run(self, task, context):
        model = task.config.build(task.spec)
        curve = fit_here(model, task)
        folder = Path(context.storage.uri("task"))
        folder.mkdir(parents=True)
        model.save(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}, curve

    monkeypatch.setattr(SingleTaskModel, "_run", run)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
@pytest.mark.parametrize("selection", [None, CorrelationSelectorConfig(threshold=0.9)], ids=str)
def test_a_model_of_one_task_keeps_the_contract(config, selection, here, tmp_path: Path):
    import dataclasses

    config = dataclasses.replace(config, selection=selection)
    (tmp_path / "saved").mkdir()
    check_model_contract(config, learnable_data(), context(tmp_path / "root"), tmp_path / "saved")


def test_the_same_fit_again_reads_what_it_left(here, tmp_path: Path):
    data, config = learnable_data(), CONFIGS[0]
    first, second = config.build(data.spec), config.build(data.spec)
    report = first.fit(data, context(tmp_path))
    assert report.curves[-1]["train_loss"] < report.curves[0]["train_loss"]
    second.fit(data, context(tmp_path))  # a second task would find its folder taken
    batch = data.batches["test"]
    np.testing.assert_array_equal(first.predict(batch).return_BCH, second.predict(batch).return_BCH)


def test_catboost_answers_as_the_library_does_on_the_same_rows():
    data, config = learnable_data(), CONFIGS[0]
    task = task_of(config, data)
    train, validation = (all_rows(task.readers[s]) for s in ("train", "validation"))
    peer = catboost.CatBoostRegressor(
        loss_function="MultiRMSE", iterations=20, depth=5, learning_rate=0.3, l2_leaf_reg=5, rsm=0.7, subsample=0.7,
        bootstrap_type="Bernoulli", random_seed=7, thread_count=1, verbose=False, allow_writing_files=False,
    )  # fmt: skip
    judged = (validation.x_RG, validation.y_RK)
    peer.fit(train.x_RG, train.y_RK, sample_weight=train.weight_R, eval_set=judged, use_best_model=True)
    rows_RF = data.rows("test")[0]
    np.testing.assert_allclose(fitted(config, data)._answer(rows_RF), peer.predict(rows_RF), rtol=1e-6, atol=1e-8)


def test_the_forest_s_own_walk_answers_as_scikit_learn_does_missing_values_included():
    data, config = learnable_data(), CONFIGS[1]
    batch = data.batches["train"]
    batch.x_BTF[np.random.default_rng(0).random(batch.x_BTF.shape) < 0.05] = np.nan
    rows = all_rows(task_of(config, data).readers["train"])
    peer = RandomForestRegressor(
        n_estimators=10, max_depth=8, min_samples_leaf=5, max_features=0.33, max_samples=0.7, random_state=7
    ).fit(rows.x_RG, rows.y_RK, sample_weight=rows.weight_R)
    asked_RF = np.concatenate([data.rows("test")[0], rows.x_RG])
    asked_RF[3] = np.nan
    np.testing.assert_allclose(fitted(config, data)._answer(asked_RF), peer.predict(asked_RF), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "scaler", [RidgeConfig().scaler, RobustScalerConfig(per_symbol=True), RollingScalerConfig(window_bars=4)], ids=str
)
def test_ridge_is_the_closed_formula_on_scaled_rows(scaler):
    data, config = learnable_data(), RidgeConfig(shrinkage=0.1, scaler=scaler, sample_weights=False)
    rows = all_rows(task_of(config, data).readers["train"])
    x = rows.x_RG.astype(np.float64)
    centred = x - x.mean(0)
    gram = centred.T @ centred + 0.1 * len(x) * np.eye(x.shape[1])
    coefficients = np.linalg.solve(gram, centred.T @ (rows.y_RK - rows.y_RK.mean(0)))
    expected = centred @ coefficients + rows.y_RK.mean(0)
    model = fitted(config, data)
    np.testing.assert_allclose(model._answer(rows.x_RG), expected, rtol=1e-6, atol=1e-6)
    peer = Ridge(alpha=0.1 * len(x)).fit(x, rows.y_RK)
    np.testing.assert_allclose(model._answer(rows.x_RG), peer.predict(x), rtol=1e-6, atol=1e-6)
    assert model.per_symbol == scaler.per_symbol if hasattr(scaler, "per_symbol") else not model.per_symbol


def test_histogram_boosting_s_own_walk_answers_as_scikit_learn_does_missing_values_included():
    data, config = learnable_data(), CONFIGS[3]
    for segment in ("train", "validation"):
        x = data.batches[segment].x_BTF
        x[np.random.default_rng(0).random(x.shape) < 0.05] = np.nan
    task = task_of(config, data)
    train, validation = (all_rows(task.readers[s]) for s in ("train", "validation"))
    asked_RF = np.concatenate([data.rows("test")[0], train.x_RG])
    asked_RF[3] = np.nan
    answers = fitted(config, data)._answer(asked_RF)
    for k in range(train.y_RK.shape[1]):
        peer = HistGradientBoostingRegressor(
            max_iter=15, learning_rate=0.3, max_leaf_nodes=31, min_samples_leaf=5, max_features=0.7, l2_regularization=5.0,
            early_stopping=True, n_iter_no_change=30, tol=0.0, random_state=7,
        )  # fmt: skip
        judged = {"X_val": validation.x_RG, "y_val": validation.y_RK[:, k], "sample_weight_val": validation.weight_R}
        peer.fit(train.x_RG, train.y_RK[:, k], sample_weight=train.weight_R, **judged)
        np.testing.assert_allclose(answers[:, k], peer.predict(asked_RF), rtol=1e-9, atol=1e-12)


def test_support_vectors_answer_as_scikit_learn_does_on_the_same_sample():
    data, config = learnable_data(), SVMConfig(rows=100_000)
    rows = all_rows(task_of(config, data).readers["train"])
    asked_RF = np.random.default_rng(1).normal(size=(50, 5)).astype(np.float32)
    answers = fitted(config, data)._answer(asked_RF)
    for k in range(rows.y_RK.shape[1]):
        peer = SVR(gamma="auto", C=0.1, epsilon=0.5)
        peer.fit(rows.x_RG.astype(np.float64), rows.y_RK[:, k].astype(np.float64), sample_weight=rows.weight_R)
        np.testing.assert_allclose(answers[:, k], peer.predict(asked_RF.astype(np.float64)), rtol=1e-9, atol=1e-9)


def test_logistic_directions_are_scikit_learn_s_probabilities_and_the_rest_is_ridge():
    data, config = learnable_data(), LogisticConfig(shrinkage=0.1, sample_weights=False)
    task = task_of(config, data)
    rows = all_rows(task.readers["train"])
    model = fitted(config, data)
    up = task.scale.restore(rows.y_RK)[:, 1] > 0.5
    peer = LogisticRegression(C=1 / (0.1 * len(rows)), tol=1e-8, max_iter=1000).fit(rows.x_RG.astype(np.float64), up)
    answers = task.scale.restore(model._answer(rows.x_RG))
    np.testing.assert_allclose(answers[:, 1], peer.predict_proba(rows.x_RG.astype(np.float64))[:, 1], rtol=1e-6)
    ridge = fitted(RidgeConfig(shrinkage=0.1, sample_weights=False), data)._answer(rows.x_RG)
    np.testing.assert_allclose(model._answer(rows.x_RG)[:, [0, 2]], ridge[:, [0, 2]])


def test_a_direction_that_always_came_is_called_with_confidence():
    data = learnable_data()
    for batch in data.batches.values():
        batch.y_BCK[..., 1] = 1.0
    batch = data.batches["test"]
    assert (fitted(LogisticConfig(), data).predict(batch).direction_logit_BCH[batch.mask_BC] > 3).all()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_rows_that_do_not_fit_in_memory_are_refused_before_the_task_starts(config, tmp_path: Path):
    import dataclasses

    data = learnable_data(chunks=1500, features=10)
    model = dataclasses.replace(config, memory_mb=1).build(data.spec)
    with pytest.raises(ConfigError, match=r"rows of 10 features would take \d+ MB there; memory_mb allows 1.*xgboost"):
        model.fit(data, context(tmp_path))


def test_no_target_that_knows_its_labels_is_said():
    data = learnable_data()
    data.batches["train"].y_BCK[..., 0] = np.where(np.arange(16) == 3, 1.0, np.nan)
    data.batches["train"].y_BCK[..., 1] = np.where(np.arange(16) == 4, 1.0, np.nan)
    with pytest.raises(ConfigError, match="no target of the train segment knows all its labels"):
        fitted(RidgeConfig(), data)


def test_without_the_package_catboost_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    data, imported = learnable_data(), builtins.__import__

    def refuse(name, *args, **options):
        if name == "catboost":
            raise ModuleNotFoundError("No module named 'catboost'", name="catboost")
        return imported(name, *args, **options)

    for name in [n for n in sys.modules if n == "catboost" or n == "quantfleet_models.catboost.model"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"needs the package catboost: pip install 'quantfleet\[catboost\]'"):
        CatBoostConfig().build(data.spec)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_weights_of_other_data_or_damaged_ones_are_refused(config, tmp_path: Path):
    fitted(config, learnable_data()).save(tmp_path)
    with pytest.raises(SchemaError):
        config.build(learnable_data(features=6).spec).load(tmp_path)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 3])
        with pytest.raises(SchemaError):
            config.build(learnable_data().spec).load(tmp_path)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("left_N", 0, 0), ("right_N", 0, 10**9), ("feature_N", 0, 77), ("root_M", 1, -5), ("value_NK", 0, np.inf)],
)
def test_arrays_that_are_no_trees_are_refused(name, place, value, tmp_path: Path):
    fitted(CONFIGS[1], learnable_data()).save(tmp_path)
    arrays = load_file(tmp_path / "trees.safetensors")
    arrays[name][place] = value
    save_file(arrays, tmp_path / "trees.safetensors")
    with pytest.raises(SchemaError, match="arrays that are no trees"):
        CONFIGS[1].build(learnable_data().spec).load(tmp_path)
