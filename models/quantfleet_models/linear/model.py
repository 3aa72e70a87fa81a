"""Ridge regression by scikit-learn in one Ray task; what is stored is its coefficients.

Shapes: G features, K = 3 H label columns, R rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Ridge

from quantfleet.contracts import DataSpec
from quantfleet.training.row_model import RowTask, read_arrays, write_arrays
from quantfleet.training.rows import Rows
from quantfleet.training.single_task import Curve, SingleTaskModel
from quantfleet.transforms.inputs import scaled_spec
from quantfleet_models.linear.config import RidgeConfig

__all__ = ["RidgeModel"]

_FILE = "coefficients.safetensors"


class RidgeModel(SingleTaskModel):
    """K linear functions of the scaled features."""

    config: RidgeConfig
    coefficient_KG: npt.NDArray[np.float64]
    intercept_K: npt.NDArray[np.float64]

    def __init__(self, config: RidgeConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.scaler = config.scaler
        scaled_spec(spec, config.scaler.kind, config.scaler.lookback_bars)  # refuses windows too short for the scaler

    @property
    def _parameters(self) -> int:
        return self.coefficient_KG.size + self.intercept_K.size

    def _answer(self, rows_RG: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        # by einsum, since what BLAS makes of a row depends on how many there are
        out: npt.NDArray[np.float64] = np.einsum("rg,kg->rk", rows_RG.astype(np.float64), self.coefficient_KG)
        return out + self.intercept_K

    def _save_weights(self, directory: Path) -> None:
        arrays = {"coefficient_KG": self.coefficient_KG, "intercept_K": self.intercept_K}
        write_arrays(directory / _FILE, arrays)

    def _load_weights(self, directory: Path, features: int) -> None:
        K = len(self.spec.label_columns)
        shapes = {"coefficient_KG": (K, features), "intercept_K": (K,)}
        arrays = read_arrays(directory / _FILE, shapes)
        self.coefficient_KG, self.intercept_K = arrays["coefficient_KG"], arrays["intercept_K"]

    def _fit_rows(self, train: Rows, validation: Rows, task: RowTask) -> Curve:
        ridge = Ridge(alpha=self.config.shrinkage * float(train.weight_R.sum(dtype=np.float64)))
        ridge.fit(train.x_RG.astype(np.float64), train.y_RK.astype(np.float64), sample_weight=train.weight_R)
        self.coefficient_KG = np.ascontiguousarray(ridge.coef_)
        self.intercept_K = np.ascontiguousarray(ridge.intercept_)
        return ()
