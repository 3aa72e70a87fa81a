"""No scaling: for models that read features in the units they come in, and scale each window themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantfleet.contracts import Scaler, ScalerConfig, TrainingData, register_scaler
from quantfleet.transforms.affine import AffineScaler

__all__ = ["IdentityScalerConfig"]


@register_scaler("none")
@dataclass(frozen=True, kw_only=True, slots=True)
class IdentityScalerConfig(ScalerConfig):
    """Features stay as they are; only their names and order are kept, so that other data are still refused."""

    def fit(self, data: TrainingData) -> Scaler:
        F = data.spec.features
        return AffineScaler(
            kind=self.kind,
            feature_columns=data.spec.feature_columns,
            centre_SF=np.zeros((1, F)),
            scale_SF=np.ones((1, F)),
        )

    @classmethod
    def restore(cls, record: Mapping[str, Any]) -> Scaler:
        return AffineScaler.from_dict(record)
