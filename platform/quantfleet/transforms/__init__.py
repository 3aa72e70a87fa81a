"""What turns raw features into what a network reads: fitted on training rows, stored with the model, the same bits in service."""

from quantfleet.transforms.affine import AffineScaler, AffineScalerConfig, StandardScalerConfig
from quantfleet.transforms.identity import IdentityScalerConfig
from quantfleet.transforms.inputs import InputTransform, fit_selection, output_units
from quantfleet.transforms.rows import (
    RowSample,
    TrainingRows,
    sample_training_rows,
    training_rows,
    training_rows_by_symbol,
)

__all__ = [
    "AffineScaler",
    "AffineScalerConfig",
    "IdentityScalerConfig",
    "InputTransform",
    "RowSample",
    "StandardScalerConfig",
    "TrainingRows",
    "fit_selection",
    "output_units",
    "sample_training_rows",
    "training_rows",
    "training_rows_by_symbol",
]
