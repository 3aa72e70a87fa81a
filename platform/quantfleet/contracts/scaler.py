"""The scaler contract: features to comparable size, learnt from training rows only, the same bits in training and service.

A scaler works on rows of ONE symbol, oldest first, before windows are cut: so scaling costs per row, not per window. It is
plain numbers: `to_dict` is JSON that is stored with the model, `scaler_from_dict` makes of it a scaler that gives the same
bits. A row's result depends on that row and at most `lookback_bars - 1` rows before it, never on the batch it comes in.

Shapes: T rows, F features, B chunks, S symbols.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from quantfleet.contracts.stored import restored
from quantfleet.errors import SchemaError
from quantfleet.plugins import PluginConfig, PluginRegistry

if TYPE_CHECKING:
    from quantfleet.contracts.model import TrainingData

__all__ = ["SCALERS", "Scaler", "ScalerConfig", "register_scaler", "scaler_from_dict"]


class Scaler(ABC):
    """A fitted scaler. Immutable, so safe to share between threads."""

    kind: str
    """Name of its plugin."""
    feature_columns: tuple[str, ...]
    """The F features it was fitted on, in order."""

    @property
    def lookback_bars(self) -> int:
        """Rows a result needs, its own included; the first `lookback_bars - 1` rows of what it is given come out NaN."""
        return 1

    @property
    def per_symbol(self) -> bool:
        """Whether results depend on the symbol, so that service must know which one it is asked about."""
        return False

    def apply(self, x_TF: npt.NDArray[np.float32], symbol_id: int) -> npt.NDArray[np.float32]:
        """Return the scaled rows, shape (T, F), a fresh array; NaN stays NaN.

        Args:
            x_TF: unscaled features of one symbol, oldest row first, no bar left out.
            symbol_id: place in the DataSpec's symbols; -1 is padding.
        Raises: SchemaError: another number of features, or no such symbol.
        """
        scaled_TF: npt.NDArray[np.float32] = self.apply_batch(x_TF[None], np.array([symbol_id], np.int32))[0]
        return scaled_TF

    def apply_batch(
        self, x_BTF: npt.NDArray[np.float32], symbol_id_B: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """The same for B chunks or windows at once, each of a symbol of its own."""
        if x_BTF.ndim != 3 or x_BTF.shape[-1] != len(self.feature_columns):
            raise SchemaError(
                f"this {self.kind} scaler was fitted on {len(self.feature_columns)} features, and is given an array of shape "
                f"{x_BTF.shape[1:] if x_BTF.ndim == 3 else x_BTF.shape}. Give rows x {len(self.feature_columns)} features in the "
                "order of the data spec."
            )
        return self._scaled(np.asarray(x_BTF, np.float32), symbol_id_B)

    @abstractmethod
    def _scaled(self, x_BTF: npt.NDArray[np.float32], symbol_id_B: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Scale checked rows."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, its `kind` included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalerConfig(PluginConfig):
    """Base config of every kind of scaler."""

    @property
    def lookback_bars(self) -> int:
        """Rows a result needs, its own included; that of the `Scaler`, known before the fit."""
        return 1

    @abstractmethod
    def fit(self, data: TrainingData) -> Scaler:
        """Learn from the training segment; validation and test are never read."""

    @classmethod
    @abstractmethod
    def restore(cls, record: Mapping[str, Any]) -> Scaler:
        """Make the scaler again from what its `to_dict` gave. Raises: SchemaError: it gave something else."""


SCALERS: PluginRegistry[ScalerConfig] = PluginRegistry("scaler", ScalerConfig, command="scalers")
register_scaler = SCALERS.register


def scaler_from_dict(record: Mapping[str, Any]) -> Scaler:
    """Make a stored scaler again.

    Raises:
        SchemaError: this is no stored scaler.
        UnknownPluginError: its kind is not registered; import the package that defines it.
    """
    made: Scaler = restored(SCALERS, record, "scaler")
    return made
