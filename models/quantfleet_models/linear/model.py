"""Ridge and logistic regression by scikit-learn in one Ray task; what is stored is coefficients.

Shapes: G features, K = 3 H label columns, R rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression, Ridge

from quantfleet.contracts import DataSpec
from quantfleet.training.row_model import RowTask, read_arrays, write_arrays
from quantfleet.training.rows import Rows
from quantfleet.training.single_task import Curve, SingleTaskModel
from quantfleet.transforms.inputs import scaled_spec
from quantfleet_models.linear.config import LogisticConfig, RidgeConfig

__all__ = ["LogisticModel", "RidgeModel"]

_FILE = "coefficients.safetensors"
_SURE = 7.0
"""Log-odds where only one direction ever came."""


class RidgeModel(SingleTaskModel):
    """K linear functions of the scaled features."""

    config: RidgeConfig | LogisticConfig
    coefficient_KG: npt.NDArray[np.float64]
    intercept_K: npt.NDArray[np.float64]

    def __init__(self, config: RidgeConfig | LogisticConfig, spec: DataSpec) -> None:
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


class LogisticModel(RidgeModel):
    """Linear functions for returns and volatilities, logistic ones for directions."""

    config: LogisticConfig

    def _answer(self, rows_RG: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        """The directions' linear functions are log-odds; as all models of rows, it answers standardised probabilities."""
        out_RK = np.array(super()._answer(rows_RG))
        up = self._directions
        assert self.scale is not None
        chance = 1.0 / (1.0 + np.exp(-out_RK[:, up]))
        out_RK[:, up] = (chance - self.scale.mean_K[up]) / self.scale.std_K[up]
        return out_RK

    def _fit_rows(self, train: Rows, validation: Rows, task: RowTask) -> Curve:
        super()._fit_rows(train, validation, task)
        weight, up_RK = float(train.weight_R.sum(dtype=np.float64)), task.scale.restore(train.y_RK) > 0.5
        for k in range(*self._directions.indices(train.y_RK.shape[1])):
            up_R = up_RK[:, k]
            if up_R.all() or not up_R.any():
                self.coefficient_KG[k] = 0.0
                self.intercept_K[k] = _SURE if up_R.all() else -_SURE
                continue
            # half the squared coefficients x shrinkage x weight, beside the summed log loss
            logistic = LogisticRegression(C=1.0 / (self.config.shrinkage * weight), max_iter=1000, tol=1e-8)
            logistic.fit(train.x_RG.astype(np.float64), up_R, sample_weight=train.weight_R)
            self.coefficient_KG[k], self.intercept_K[k] = logistic.coef_[0], logistic.intercept_.item()
        return ()

    @property
    def _directions(self) -> slice:
        H = len(self.spec.horizons_bars)
        return slice(H, 2 * H)
