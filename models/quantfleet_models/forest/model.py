"""A random forest by scikit-learn in one Ray task; what is stored is the arrays of its trees, which answer without scikit-learn.

Shapes: N nodes of all trees one after the other, M trees, G features, K = 3 H label columns, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestRegressor

from quantfleet.errors import SchemaError
from quantfleet.training.row_model import RowTask, check_features, read_arrays, write_arrays
from quantfleet.training.rows import Rows
from quantfleet.training.single_task import Curve, SingleTaskModel
from quantfleet_models.forest.config import RandomForestConfig

__all__ = ["Forest", "RandomForestModel"]

_FILE = "trees.safetensors"
_LEAF = -1


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees as arrays. Nodes are numbered through all trees, a child after its parent."""

    root_M: npt.NDArray[np.int64]
    left_N: npt.NDArray[np.int64]
    """Left child; -1 in leaves."""
    right_N: npt.NDArray[np.int64]
    feature_N: npt.NDArray[np.int64]
    threshold_N: npt.NDArray[np.float64]
    """Rows whose feature is not greater go left."""
    missing_left_N: npt.NDArray[np.uint8]
    """Whether NaN goes left."""
    value_NK: npt.NDArray[np.float64]
    features_1: npt.NDArray[np.int64]
    """G, in an array of one."""

    @classmethod
    def of(cls, regressor: RandomForestRegressor) -> Forest:
        """Take the trees out of a fitted forest of scikit-learn."""
        trees = [estimator.tree_ for estimator in regressor.estimators_]
        root_M = np.cumsum([0, *(tree.node_count for tree in trees)], dtype=np.int64)[:-1]

        def joined(name: str, kind: type[np.generic]) -> npt.NDArray[Any]:
            return np.concatenate([getattr(tree, name) for tree in trees]).astype(kind)

        def children(name: str) -> npt.NDArray[np.int64]:
            parts = [getattr(tree, name) for tree in trees]
            return np.concatenate(
                [np.where(part == _LEAF, _LEAF, part + root) for part, root in zip(parts, root_M, strict=True)]
            ).astype(np.int64)

        value = joined("value", np.float64)
        return cls(
            root_M=root_M,
            left_N=children("children_left"),
            right_N=children("children_right"),
            feature_N=np.maximum(joined("feature", np.int64), 0),
            threshold_N=joined("threshold", np.float64),
            missing_left_N=joined("missing_go_to_left", np.uint8),
            value_NK=np.ascontiguousarray(value.reshape(len(value), -1)),
            features_1=np.array([regressor.n_features_in_], np.int64),
        )

    def predict(self, rows_RG: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Mean of the trees' answers, (R, K). All rows walk down a tree together, level by level."""
        total_RK = np.zeros((len(rows_RG), self.value_NK.shape[1]))
        every_R = np.arange(len(rows_RG))
        for root in self.root_M:
            node_R = np.full(len(rows_RG), root)
            walking = every_R
            while len(walking := walking[self.left_N[node_R[walking]] != _LEAF]):
                node = node_R[walking]
                x = rows_RG[walking, self.feature_N[node]]
                left = np.where(np.isnan(x), self.missing_left_N[node] == 1, x <= self.threshold_N[node])
                node_R[walking] = np.where(left, self.left_N[node], self.right_N[node])
            total_RK += self.value_NK[node_R]
        return total_RK / len(self.root_M)

    @staticmethod
    def shapes(labels: int) -> dict[str, tuple[int | str, ...]]:
        """Of the arrays, as `read_arrays` wants them."""
        nodes = ("left_N", "right_N", "feature_N", "threshold_N", "missing_left_N")
        return {"root_M": ("M",), "value_NK": ("N", labels), "features_1": (1,), **dict.fromkeys(nodes, ("N",))}

    def check(self, path: Path) -> None:
        """Raises: SchemaError: the arrays are no trees: walking down would leave them, or never end."""
        N, own = len(self.left_N), np.arange(len(self.left_N))
        leaf = self.left_N == _LEAF
        sound = (
            len(self.root_M) > 0
            and bool(((self.root_M >= 0) & (self.root_M < N)).all())
            and bool((leaf == (self.right_N == _LEAF)).all())
            and all(bool(((child > own) & (child < N))[~leaf].all()) for child in (self.left_N, self.right_N))
            and bool(((self.feature_N >= 0) & (self.feature_N < self.features_1[0])).all())
            and bool(np.isfinite(self.value_NK).all())
        )
        if not sound:
            raise SchemaError(f"{path} holds arrays that are no trees. Fit the model again.")


class RandomForestModel(SingleTaskModel):
    """Trees that scikit-learn grew and numpy walks."""

    config: RandomForestConfig
    forest: Forest

    @property
    def _parameters(self) -> int:
        return len(self.forest.root_M)

    def _answer(self, rows_RG: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        return self.forest.predict(rows_RG)

    def _save_weights(self, directory: Path) -> None:
        write_arrays(directory / _FILE, vars(self.forest))

    def _load_weights(self, directory: Path, features: int) -> None:
        path, K = directory / _FILE, len(self.spec.label_columns)
        forest = Forest(**read_arrays(path, Forest.shapes(K)))
        check_features(path, int(forest.features_1[0]), features)
        forest.check(path)
        self.forest = forest

    def _fit_rows(self, train: Rows, validation: Rows, task: RowTask) -> Curve:
        regressor = RandomForestRegressor(**parameters(task))
        regressor.fit(train.x_RG, train.y_RK, sample_weight=train.weight_R)
        self.forest = Forest.of(regressor)
        return ()


def parameters(task: RowTask) -> dict[str, Any]:
    """What scikit-learn is told."""
    config: RandomForestConfig = task.config
    return {
        "n_estimators": config.trees,
        "max_depth": config.max_depth,
        "min_samples_leaf": config.min_leaf_rows,
        "max_features": config.column_sample,
        "max_samples": config.subsample,
        "random_state": task.seed,
        "n_jobs": task.threads,
    }
