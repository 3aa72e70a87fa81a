"""The selection contract: which features a model gets, or what they are turned into, learnt from training rows only.

A selection is plain numbers: `to_dict` is JSON that is stored with the model, `selection_from_dict` makes of it one that
gives the same bits. A row's result depends on that row alone, never on the batch it comes in.

Shapes: R rows, F features given, G features that come out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.contracts.stored import restored
from quantfleet.errors import SchemaError
from quantfleet.plugins import PluginConfig, PluginRegistry

__all__ = ["SELECTORS", "Selection", "SelectorConfig", "register_selector", "selection_from_dict"]


class Selection(ABC):
    """What a fitted selector decided. Immutable, so safe to share between threads."""

    kind: str
    """Name of its plugin."""
    feature_columns: tuple[str, ...]
    """The F features it was fitted on, in order."""
    columns: tuple[str, ...]
    """The G features that come out, in order."""
    scores: Mapping[str, float]
    """What each feature (or component) was judged by; see the selector."""

    def transform(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Turn features (..., F) into (..., G), a fresh array; NaN goes where it is read.

        Raises: SchemaError: another number of features.
        """
        if x.ndim < 1 or x.shape[-1] != len(self.feature_columns):
            raise SchemaError(
                f"this {self.kind} selection was fitted on {len(self.feature_columns)} features, and is given an array of shape "
                f"{x.shape}. Give the features of the data spec, in its order."
            )
        return self._transformed(np.asarray(x, np.float32))

    @abstractmethod
    def _transformed(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Transform checked features."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, its `kind` included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectorConfig(PluginConfig):
    """Base config of every kind of selector."""

    @abstractmethod
    def fit(
        self,
        x_RF: npt.NDArray[np.float32],
        y_R: npt.NDArray[np.float32] | None,
        names: Sequence[str],
        *,
        time_R: npt.NDArray[np.int64] | None = None,
        horizon_bars: int = 0,
    ) -> Selection:
        """Learn from training rows; the caller answers for there being no others.

        Rows with an undefined feature, or a label that is not known, are left out.

        Args:
            y_R: the label to be foretold; None for selectors that read none.
            names: of the F features.
            time_R: when each row is, in any unit; rows are in order of time. None: each row is a later time.
            horizon_bars: how far the label looks ahead; rows set aside for judging begin so many times later.
        Raises:
            ConfigError: the selector reads labels and there are none, or keeps more features than there are.
            EmptyTableError: too few rows are left.
            SchemaError: shapes do not fit each other, or rows step back in time.
        """

    @classmethod
    @abstractmethod
    def restore(cls, record: Mapping[str, Any]) -> Selection:
        """Make the selection again from what its `to_dict` gave."""


SELECTORS: PluginRegistry[SelectorConfig] = PluginRegistry("selector", SelectorConfig, command="selectors")
register_selector = SELECTORS.register


def selection_from_dict(record: Mapping[str, Any]) -> Selection:
    """Make a stored selection again.

    Raises:
        SchemaError: this is no stored selection.
        UnknownPluginError: its kind is not registered; import the package that defines it.
    """
    made: Selection = restored(SELECTORS, record, "selection")
    return made
