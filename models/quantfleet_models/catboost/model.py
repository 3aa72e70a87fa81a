"""CatBoost in one Ray task. CatBoost's own distributed mode needs its command-line workers, so it is not used.

Shapes: G selected features, K = 3 H label columns, R rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import catboost
import numpy as np
import numpy.typing as npt

from quantfleet.errors import SchemaError
from quantfleet.training.row_model import RowTask, check_features, library_says
from quantfleet.training.rows import Rows
from quantfleet.training.single_task import Curve, SingleTaskModel
from quantfleet_models.catboost.config import CatBoostConfig

__all__ = ["CatBoostModel", "parameters"]

_FILE = "trees.cbm"


class CatBoostModel(SingleTaskModel):
    """One CatBoost regressor under MultiRMSE."""

    config: CatBoostConfig
    runs_on_gpu = True
    booster: catboost.CatBoost

    @property
    def _parameters(self) -> int:
        return int(self.booster.tree_count_)

    def _answer(self, rows_RG: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        out: npt.NDArray[np.float64] = self.booster.predict(rows_RG, thread_count=1)
        return out

    def _save_weights(self, directory: Path) -> None:
        self.booster.save_model(str(directory / _FILE), format="cbm")

    def _load_weights(self, directory: Path, features: int) -> None:
        path = directory / _FILE
        booster = catboost.CatBoost()
        try:
            booster.load_model(str(path), format="cbm")
        except catboost.CatBoostError as error:
            raise library_says(path, "boosted trees", error) from error
        check_features(path, len(booster.feature_names_), features)
        labels = len(self.spec.label_columns)
        answers = booster.predict(np.zeros((1, features), np.float32), thread_count=1).size
        if answers != labels:
            raise SchemaError(f"{path} answers {answers} labels, the data have {labels}.")
        self.booster = booster

    def _fit_rows(self, train: Rows, validation: Rows, task: RowTask) -> Curve:
        pools = [catboost.Pool(rows.x_RG, label=rows.y_RK, weight=rows.weight_R) for rows in (train, validation)]
        self.booster = catboost.CatBoost(parameters(task))
        self.booster.fit(pools[0], eval_set=pools[1], early_stopping_rounds=self.config.patience_rounds)
        errors = self.booster.get_evals_result()
        return [
            {"epoch": float(i), "train_loss": float(t), "val_loss": float(v)}
            for i, (t, v) in enumerate(
                zip(errors["learn"]["MultiRMSE"], errors["validation"]["MultiRMSE"], strict=True), start=1
            )
        ]


def parameters(task: RowTask) -> dict[str, Any]:
    """What CatBoost is told."""
    config: CatBoostConfig = task.config
    chosen: dict[str, Any] = {
        "loss_function": "MultiRMSE",
        "iterations": config.rounds,
        "depth": config.depth,
        "learning_rate": config.learning_rate,
        "l2_leaf_reg": config.l2,
        "bootstrap_type": "Bernoulli",
        "subsample": config.subsample,
        "random_seed": task.seed,
        "thread_count": task.threads,
        "use_best_model": True,
        "allow_writing_files": False,
        "logging_level": "Silent",
        "task_type": "GPU" if task.use_gpu else "CPU",
    }
    return chosen if task.use_gpu else {**chosen, "rsm": config.column_sample}
