"""Gradient boosting by scikit-learn in one Ray task; what is stored is the arrays of its trees, which answer without scikit-learn.

Shapes: N nodes of all trees one after the other, M trees, G features, K = 3 H label columns, R rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingRegressor

from quantfleet.training.row_model import RowTask, check_features, read_arrays, write_arrays
from quantfleet.training.rows import Rows
from quantfleet.training.single_task import Curve, SingleTaskModel
from quantfleet_models.forest.model import Forest
from quantfleet_models.hist_boosting.config import HistBoostingConfig

__all__ = ["HistBoostingModel"]

_FILE = "trees.safetensors"


class HistBoostingModel(SingleTaskModel):
    """Trees that scikit-learn grew and numpy walks: a label's answer is where it began plus the sum of its trees' leaves."""

    config: HistBoostingConfig
    forest: Forest
    """Trees of all labels; a leaf holds its step in its own label's column and 0 in the others."""
    start_K: npt.NDArray[np.float64]

    @property
    def _parameters(self) -> int:
        return len(self.forest.root_M)

    def _answer(self, rows_RG: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        return self.start_K + self.forest.predict(rows_RG) * len(self.forest.root_M)

    def _save_weights(self, directory: Path) -> None:
        write_arrays(directory / _FILE, {**vars(self.forest), "start_K": self.start_K})

    def _load_weights(self, directory: Path, features: int) -> None:
        path, K = directory / _FILE, len(self.spec.label_columns)
        arrays = read_arrays(path, {**Forest.shapes(K), "start_K": (K,)})
        start_K = arrays.pop("start_K")
        forest = Forest(**arrays)
        check_features(path, int(forest.features_1[0]), features)
        forest.check(path)
        self.forest, self.start_K = forest, start_K

    def _fit_rows(self, train: Rows, validation: Rows, task: RowTask) -> Curve:
        boosters = []
        for k in range(train.y_RK.shape[1]):
            booster = self._booster(task.seed)
            booster.fit(
                train.x_RG,
                train.y_RK[:, k],
                sample_weight=train.weight_R,
                X_val=validation.x_RG,
                y_val=validation.y_RK[:, k],
                sample_weight_val=validation.weight_R,
            )
            boosters.append(booster)
        self.forest, self.start_K = _trees(boosters), np.array([float(b._baseline_prediction.item()) for b in boosters])
        # scikit-learn scores by minus half the squared error; where a booster stopped, its last value stands on
        rounds = max(len(b.validation_score_) for b in boosters)
        errors = [[np.sqrt(-2 * np.asarray(s)) for s in (b.train_score_, b.validation_score_)] for b in boosters]

        def mean(part: int, at: int) -> float:
            return float(np.mean([error[part][min(at, len(error[part]) - 1)] for error in errors]))

        return [{"epoch": float(i), "train_loss": mean(0, i), "val_loss": mean(1, i)} for i in range(1, rounds)]

    def _booster(self, seed: int) -> HistGradientBoostingRegressor:
        config = self.config
        return HistGradientBoostingRegressor(
            max_iter=config.rounds,
            learning_rate=config.learning_rate,
            max_leaf_nodes=config.leaves,
            min_samples_leaf=config.min_leaf_rows,
            max_features=config.column_sample,
            l2_regularization=config.l2,
            max_bins=config.max_bins,
            early_stopping=True,
            n_iter_no_change=config.patience_rounds,
            tol=0.0,
            random_state=seed,
        )


def _trees(boosters: list[HistGradientBoostingRegressor]) -> Forest:
    """Take the trees out of fitted boosters, label after label."""
    nodes, label_of = [], []
    for k, booster in enumerate(boosters):
        for (predictor,) in booster._predictors:
            nodes.append(predictor.nodes)
            label_of.append(k)
    root_M = np.cumsum([0, *map(len, nodes)], dtype=np.int64)[:-1]
    every = np.concatenate(nodes)
    base_N = np.repeat(root_M, [len(tree) for tree in nodes])
    leaf_N = every["is_leaf"] == 1
    value_NK = np.zeros((len(every), len(boosters)))
    value_NK[np.arange(len(every)), np.repeat(label_of, [len(tree) for tree in nodes])] = np.where(
        leaf_N, every["value"], 0.0
    )
    return Forest(
        root_M=root_M,
        left_N=np.where(leaf_N, -1, every["left"].astype(np.int64) + base_N),
        right_N=np.where(leaf_N, -1, every["right"].astype(np.int64) + base_N),
        feature_N=np.where(leaf_N, 0, every["feature_idx"]).astype(np.int64),
        threshold_N=np.where(leaf_N, 0.0, every["num_threshold"]),
        missing_left_N=every["missing_go_to_left"].astype(np.uint8),
        value_NK=value_NK,
        features_1=np.array([boosters[0].n_features_in_], np.int64),
    )
