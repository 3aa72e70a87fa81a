"""Calibration of direction probabilities.

Shapes: R rows with a known direction, J knots of an isotonic map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.errors import EmptyTableError, SchemaError

__all__ = ["IsotonicCalibration", "TemperatureCalibration"]

Array = npt.NDArray[np.float64]
_LEAST_CHANCE = 1e-3
"""A probability of 0 or 1 from some rows is no certainty."""


@dataclass(frozen=True, eq=False)
class TemperatureCalibration:
    """Log-odds divided by one number, the one with the least log loss: no call changes, only how sure it is.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """

    temperature: float
    """Above 1: the model was too sure. Infinite where its calls tell nothing, or the contrary of what comes."""

    @classmethod
    def fit(cls, logit_R: Array, up_R: Array) -> TemperatureCalibration:
        """Raises: EmptyTableError: there are no rows."""
        from scipy.optimize import minimize_scalar

        _some(logit_R)

        def log_loss(inverse: float) -> float:
            scaled = inverse * logit_R
            return float(np.mean(np.logaddexp(0.0, scaled) - up_R * scaled))

        found = minimize_scalar(log_loss, bounds=(0.0, 50.0), method="bounded", options={"xatol": 1e-7})  # convex in it
        inverse = float(found.x) if log_loss(found.x) < log_loss(0.0) else 0.0
        return cls(1.0 / inverse if inverse > 1e-6 else np.inf)

    def apply(self, logit: Array) -> Array:
        """Calibrated log-odds, of any shape."""
        return np.asarray(logit, np.float64) / self.temperature

    def to_dict(self) -> dict[str, Any]:
        return {"inverse": 1.0 / self.temperature}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> TemperatureCalibration:
        """Raises: SchemaError: it is not what `to_dict` made."""
        try:
            inverse = float(record["inverse"])
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"this is no stored temperature: {error}. Fit the model again.") from error
        if not 0.0 <= inverse < np.inf:
            raise SchemaError(
                f"a stored temperature has the inverse {inverse}; it lies at 0 or above. Fit the model again."
            )
        return cls(1.0 / inverse if inverse else np.inf)


@dataclass(frozen=True, eq=False)
class IsotonicCalibration:
    """The rising map of log-odds to probabilities with the least squared error; straight lines between its knots.

    It bends as the data want it and so needs some thousand rows; with fewer, `TemperatureCalibration` is safer.

    Source: Zadrozny and Elkan 2002, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates".
    """

    logit_J: Array
    """Rising."""
    chance_J: Array
    """Not falling."""

    @classmethod
    def fit(cls, logit_R: Array, up_R: Array) -> IsotonicCalibration:
        """Raises: EmptyTableError: there are no rows."""
        from sklearn.isotonic import IsotonicRegression

        _some(logit_R)
        fitted = IsotonicRegression(y_min=_LEAST_CHANCE, y_max=1 - _LEAST_CHANCE, out_of_bounds="clip").fit(
            logit_R, up_R
        )
        return cls(np.asarray(fitted.X_thresholds_, np.float64), np.asarray(fitted.y_thresholds_, np.float64))

    def apply(self, logit: Array) -> Array:
        """Calibrated log-odds, of any shape; beyond the knots as at the last one."""
        chance = np.interp(np.asarray(logit, np.float64), self.logit_J, self.chance_J)
        return np.log(chance / (1 - chance))

    def to_dict(self) -> dict[str, Any]:
        return {"logit": self.logit_J.tolist(), "chance": self.chance_J.tolist()}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> IsotonicCalibration:
        """Raises: SchemaError: it is not what `to_dict` made."""
        try:
            made = cls(*(np.asarray(record[name], np.float64) for name in ("logit", "chance")))
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"this is no stored isotonic map: {error}. Fit the model again.") from error
        rises = made.logit_J.ndim == 1 and made.logit_J.shape == made.chance_J.shape and len(made.logit_J) > 0
        if not (rises and (np.diff(made.logit_J) >= 0).all() and (np.diff(made.chance_J) >= 0).all()):
            raise SchemaError("a stored isotonic map does not rise. Fit the model again.")
        if not ((made.chance_J > 0) & (made.chance_J < 1)).all():
            raise SchemaError("a stored isotonic map holds values that are no probabilities. Fit the model again.")
        return made


def _some(logit_R: Array) -> None:
    if not len(logit_R):
        raise EmptyTableError(
            "no row knows its direction, so there is nothing to calibrate by. Widen the validation segment."
        )
