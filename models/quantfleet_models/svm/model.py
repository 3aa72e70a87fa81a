"""Support vector regression by scikit-learn in one Ray task; what is stored is the support vectors and their weights.

Shapes: S support vectors of all labels, G features, K = 3 H label columns, R rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.svm import SVR

from quantfleet.contracts import DataSpec
from quantfleet.training.row_model import RowTask, read_arrays, write_arrays
from quantfleet.training.rows import Rows
from quantfleet.training.single_task import Curve, SingleTaskModel
from quantfleet.transforms.inputs import scaled_spec
from quantfleet_models.svm.config import SVMConfig

__all__ = ["SVMModel"]

_FILE = "vectors.safetensors"
_BATCH_ROWS = 1024


class SVMModel(SingleTaskModel):
    """A sum of Gaussians around the support vectors, for each label."""

    config: SVMConfig
    vector_SG: npt.NDArray[np.float64]
    weight_SK: npt.NDArray[np.float64]
    intercept_K: npt.NDArray[np.float64]

    def __init__(self, config: SVMConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.scaler = config.scaler
        scaled_spec(spec, config.scaler.kind, config.scaler.lookback_bars)  # refuses windows too short for the scaler

    @property
    def _parameters(self) -> int:
        return self.vector_SG.size + self.weight_SK.size

    def _answer(self, rows_RG: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        gamma = 1.0 / (self.config.kernel_width * self.vector_SG.shape[1])
        out_RK = np.empty((len(rows_RG), len(self.intercept_K)))
        size_S = np.einsum("sg,sg->s", self.vector_SG, self.vector_SG)
        for first in range(0, len(rows_RG), _BATCH_ROWS):
            x_RG = rows_RG[first : first + _BATCH_ROWS].astype(np.float64)
            # by einsum, since what BLAS makes of a row depends on how many there are
            distance_RS = (
                np.einsum("rg,rg->r", x_RG, x_RG)[:, None] + size_S - 2 * np.einsum("rg,sg->rs", x_RG, self.vector_SG)
            )
            out_RK[first : first + _BATCH_ROWS] = np.einsum("rs,sk->rk", np.exp(-gamma * distance_RS), self.weight_SK)
        return out_RK + self.intercept_K

    def _save_weights(self, directory: Path) -> None:
        arrays = {"vector_SG": self.vector_SG, "weight_SK": self.weight_SK, "intercept_K": self.intercept_K}
        write_arrays(directory / _FILE, arrays)

    def _load_weights(self, directory: Path, features: int) -> None:
        K = len(self.spec.label_columns)
        arrays = read_arrays(
            directory / _FILE, {"vector_SG": ("S", features), "weight_SK": ("S", K), "intercept_K": (K,)}
        )
        self.vector_SG, self.weight_SK = arrays["vector_SG"], arrays["weight_SK"]
        self.intercept_K = arrays["intercept_K"]

    def _fit_rows(self, train: Rows, validation: Rows, task: RowTask) -> Curve:
        chosen = np.arange(len(train))
        if len(train) > self.config.rows:
            chosen = np.sort(np.random.default_rng(task.seed).choice(len(train), self.config.rows, replace=False))
        x_SG, weight_S = train.x_RG[chosen].astype(np.float64), train.weight_R[chosen]
        K = train.y_RK.shape[1]
        weight_SK, intercept_K = np.zeros((len(chosen), K)), np.zeros(K)
        gamma = 1.0 / (self.config.kernel_width * x_SG.shape[1])
        for k in range(K):
            machine = SVR(gamma=gamma, C=self.config.cost, epsilon=self.config.tube)
            machine.fit(x_SG, train.y_RK[chosen, k].astype(np.float64), sample_weight=weight_S)
            weight_SK[machine.support_, k] = machine.dual_coef_[0]
            intercept_K[k] = machine.intercept_.item()
        used = (weight_SK != 0).any(1)
        self.vector_SG, self.weight_SK, self.intercept_K = x_SG[used], weight_SK[used], intercept_K
        return ()
