"""Scaler range: what scales the features was measured on the training segment only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.evaluation.audit.base import AuditConfig, AuditInputs, Finding

__all__ = ["scaler_range"]

Doubles = npt.NDArray[np.float64]
_EXACT = 1e-3
"""Within so many standard deviations two means are the same."""


def scaler_range(inputs: AuditInputs, config: AuditConfig) -> Finding:
    """Work mean and deviation out again on training targets and on all targets: the stored ones must be the former.

    Features whose moments hardly differ between the two tell nothing and are left out.
    """
    names = [name for name in inputs.feature_columns if name in inputs.moments]
    wide = inputs.rows.select(pl.col(name).cast(pl.Float64) for name in names).to_numpy()
    train = wide[(inputs.rows["segment"] == "train").to_numpy()]
    (train_mean, train_std), (all_mean, all_std) = _moments(train), _moments(wide)
    stored_mean, stored_std = np.array([inputs.moments[name] for name in names]).reshape(-1, 2).T
    unit = np.where(train_std > 0.0, train_std, 1.0)

    def apart(mean: Doubles, std: Doubles) -> Doubles:
        return np.abs(stored_mean - mean) / unit + np.abs(stored_std - std) / unit

    telling = np.abs(all_mean - train_mean) / unit + np.abs(all_std - train_std) / unit > 10.0 * _EXACT
    if not telling.any():
        return Finding(
            check="scaler_range", outcome="not_checked", detail="training and later features have the same moments"
        )
    beyond = telling & ~(apart(train_mean, train_std) < apart(all_mean, all_std))
    if beyond.any():
        name = names[int(np.argmax(beyond))]
        return Finding(
            check="scaler_range",
            outcome="failed",
            detail=f"{int(beyond.sum())} of {int(telling.sum())} features are scaled by moments nearer to those of all data "
            f"than to those of training, such as {name}: the scaler has seen validation or test",
            evidence={"features": float(beyond.sum())},
        )
    return Finding(
        check="scaler_range",
        outcome="passed",
        detail=f"{int(telling.sum())} features are scaled by the moments of the training segment",
    )


def _moments(x_NF: Doubles) -> tuple[Doubles, Doubles]:
    x = np.where(np.isfinite(x_NF), x_NF, np.nan)
    return np.nanmean(x, axis=0), np.nanstd(x, axis=0)
