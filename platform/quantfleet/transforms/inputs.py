"""The one way from a chunk's raw features to what a network reads: scaled, then selected; in training, evaluation and service.

Shapes: B chunks, C targets, L look-back bars, T = C + L - 1 rows, F features given, W rows that a scaler reads for one result,
T' = T - W + 1 rows and G features that come out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import (
    DataSpec,
    Scaler,
    ScalerConfig,
    Selection,
    SelectorConfig,
    TrainingData,
    scaler_from_dict,
    selection_from_dict,
)
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError, TrainingError, nearest
from quantfleet.moments import Moments
from quantfleet.transforms.rows import sample_training_rows, training_rows

__all__ = ["InputTransform", "fit_selection", "output_units"]

_SCALER_FILE = "scaler.json"
_SELECTION_FILE = "selection.json"


@dataclass(frozen=True)
class InputTransform:
    """A fitted scaler, then a fitted selection; either may be missing. Immutable, so safe to share between threads.

    Works on the rows of chunks, so a row is transformed once, not once for every window it lies in.
    """

    given: DataSpec
    """What it is fed with."""
    scaler: Scaler | None = None
    selection: Selection | None = None

    def __post_init__(self) -> None:
        """Raises: SchemaError: a part was fitted on other features. ConfigError: windows are shorter than the scaler's past."""
        for part in (self.scaler, self.selection):
            if part is not None and part.feature_columns != self.given.feature_columns:
                raise SchemaError(
                    f"the {part.kind} {'scaler' if part is self.scaler else 'selection'} was fitted on "
                    f"{', '.join(part.feature_columns)}, the data hold {', '.join(self.given.feature_columns)}. Fit the model "
                    "again."
                )
        _ = self.spec

    @property
    def spec(self) -> DataSpec:
        """What comes out: windows of L - W + 1 bars, G features."""
        spec = (
            self.given if self.scaler is None else scaled_spec(self.given, self.scaler.kind, self.scaler.lookback_bars)
        )
        return spec if self.selection is None else replace(spec, feature_columns=self.selection.columns)

    @property
    def per_symbol(self) -> bool:
        """Whether results depend on the symbol."""
        return self.scaler is not None and self.scaler.per_symbol

    def apply(self, x_BTF: npt.NDArray[np.float32], symbol_id_B: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Transform chunks or windows, (B, T, F) to (B, T', G), contiguous; the same array where there is nothing to do.

        The rows that only serve as the scaler's past are cut off. Raises: SchemaError: other features, or no such symbol.
        """
        if self.scaler is None and self.selection is None:
            return x_BTF
        if self.scaler is not None:
            x_BTF = self.scaler.apply_batch(x_BTF, symbol_id_B)[:, self.scaler.lookback_bars - 1 :]
        if self.selection is not None:
            x_BTF = self.selection.transform(x_BTF)
        return np.ascontiguousarray(x_BTF)

    def save(self, directory: Path) -> None:
        """Write `scaler.json` and `selection.json`, for the parts there are."""
        if (
            self.scaler is not None
        ):  # in one line: a scale for each of thousands of symbols is written after every epoch
            Path(directory, _SCALER_FILE).write_text(json.dumps(self.scaler.to_dict()))
        if self.selection is not None:
            Path(directory, _SELECTION_FILE).write_text(json.dumps(self.selection.to_dict(), indent=1))

    @classmethod
    def load(cls, directory: Path, given: DataSpec, *, scaler: bool, selection: bool) -> InputTransform:
        """Read what `save` wrote; nothing is unpickled.

        Args:
            scaler, selection: which parts the model's config says it has.
        Raises: SchemaError: a part is missing, damaged or of other data.
        """
        return cls(
            given,
            scaler=scaler_from_dict(_read(directory / _SCALER_FILE)) if scaler else None,
            selection=selection_from_dict(_read(directory / _SELECTION_FILE)) if selection else None,
        )

    def check_checkpoint(self, directory: Path) -> None:
        """Raises: TrainingError: the checkpoint in `directory` was trained on inputs that were scaled or selected otherwise."""
        stored = InputTransform.load(
            directory, self.given, scaler=self.scaler is not None, selection=self.selection is not None
        )
        for name in ("scaler", "selection"):
            was, now = getattr(stored, name), getattr(self, name)
            if now is not None and json.dumps(was.to_dict()) != json.dumps(now.to_dict()):
                raise TrainingError(
                    f"the checkpoint to go on from was trained with another {name} than this fit has learnt: the training data "
                    "or the config changed. Start the fit under a new name."
                )

    @classmethod
    def fit(
        cls,
        data: TrainingData,
        *,
        scaler: ScalerConfig | None,
        selection: SelectorConfig | None,
        label: str | None = None,
    ) -> InputTransform:
        """Learn from the training segment alone; the selection is fitted on scaled rows.

        Memory: that of the scaler's fit, then of `fit_selection`'s sample.

        Args:
            label: label column that the selection judges by; None: the first, which is the return at the first horizon.
        Raises: ConfigError, EmptyTableError, SchemaError: as the scaler, the selection and `fit_selection` do.
        """
        fitted = None if scaler is None else scaler.fit(data)
        whole = cls(data.spec, fitted)  # refuses a scaler that the windows are too short for before rows are read
        if selection is None:
            return whole
        return replace(whole, selection=fit_selection(selection, data, label=label, scaler=fitted))


def scaled_spec(spec: DataSpec, kind: str, lookback_bars: int) -> DataSpec:
    """What is left of windows whose first rows are the scaler's past. Raises: ConfigError: nothing is left."""
    left = spec.lookback_bars - (lookback_bars - 1)
    if left < 1:
        raise ConfigError(
            f"scaler {kind} reads {lookback_bars} bars for every row, and the windows of the data hold lookback_bars="
            f"{spec.lookback_bars}. Set lookback_bars to at least {lookback_bars}, better to {lookback_bars - 1} plus the bars "
            "that the network should see, or let the scaler read fewer; standard and robust read one."
        )
    return replace(spec, lookback_bars=left)


def fit_selection(
    config: SelectorConfig,
    data: TrainingData,
    *,
    label: str | None = None,
    rows: int = 100_000,
    seed: int = 0,
    scaler: Scaler | None = None,
) -> Selection:
    """Fit a selector on a uniform sample of the training rows.

    Args:
        label: one of the spec's label columns, e.g. "return_5"; None: the first. Selectors that read no label ignore it.
        rows: at most so many; memory is bounded by them (see `sample_training_rows`).
        scaler: the selector sees rows as this one scales them; None: raw.
    Raises: SchemaError: no label of that name; and as `SelectorConfig.fit`.
    """
    spec = data.spec
    place = label_place(spec, label)
    sample = sample_training_rows(data, rows=rows, seed=seed, scaler=scaler)
    if not len(sample):
        raise EmptyTableError("there are no training rows to select features on. Widen the training segment.")
    return config.fit(
        sample.x_RF,
        sample.y_RK[:, place],
        spec.feature_columns,
        time_R=sample.time_R,
        horizon_bars=spec.horizons_bars[place % len(spec.horizons_bars)],
    )


def label_place(spec: DataSpec, label: str | None) -> int:
    """Place of a label among the columns. Raises: SchemaError: there is none of that name."""
    if label is None:
        return 0
    if label not in spec.label_columns:
        raise SchemaError(
            f"the chunks hold no label {label!r}.{nearest(label, spec.label_columns)} They hold: {', '.join(spec.label_columns)}."
        )
    return spec.label_columns.index(label)


def output_units(data: TrainingData, inputs: InputTransform) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and deviation (G,) of what comes out over the training rows, in one pass; a deviation of 0 is given as 1.

    Memory: one batch of chunks.
    """
    moments = Moments.none(inputs.spec.features)
    for rows in training_rows(data, scaler=inputs.scaler):
        selected = rows.x_RF if inputs.selection is None else inputs.selection.transform(rows.x_RF)
        moments = moments + Moments.of(selected)
    return moments.mean, np.where(moments.std > 0, moments.std, 1.0)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SchemaError(
            f"{path} cannot be read: {error}. Fit the model again, or load it from where it is whole."
        ) from error
    if not isinstance(record, dict):
        raise SchemaError(f"{path} holds no fitted part of a model. Fit the model again.")
    return record
