"""Drop features that say what another says already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import Selection, register_selector
from quantfleet.errors import ConfigError
from quantfleet_data.selection.base import ColumnSelection, ColumnSelectorConfig, complete_rows

__all__ = ["CorrelationSelectorConfig"]


@register_selector("correlation")
@dataclass(frozen=True, kw_only=True, slots=True)
class CorrelationSelectorConfig(ColumnSelectorConfig):
    """Walk the features in their order and keep each whose |correlation| with every one kept so far is below a threshold.

    So of a pair the one listed first stays, whatever the rows. A feature that never varies is dropped. Reads no label. Score:
    the highest |correlation| with a feature listed before it that was kept.
    """

    threshold: float = 0.95
    method: Literal["pearson", "spearman"] = "pearson"
    """spearman: of the ranks, so monotonous copies are found and outliers do not matter."""

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0:
            raise ConfigError(f"selector correlation: threshold={self.threshold} must lie above 0 and at most at 1.")

    def fit(
        self,
        x_RF: npt.NDArray[np.float32],
        y_R: npt.NDArray[np.float32] | None,
        names: Sequence[str],
        *,
        time_R: npt.NDArray[np.int64] | None = None,
        horizon_bars: int = 0,
    ) -> Selection:
        values_RF = complete_rows(self.kind, x_RF, y_R, names, time_R, labelled=False).x_RF
        if self.method == "spearman":
            from scipy.stats import rankdata

            values_RF = np.asarray(rankdata(values_RF, axis=0), np.float64)
        flat_F = np.ptp(values_RF, axis=0) == 0.0
        if flat_F.all():
            raise ConfigError(
                "selector correlation: no feature varies in the training rows; there is nothing to select."
            )
        centred_RF = values_RF - values_RF.mean(0)
        centred_RF /= np.where(flat_F, 1.0, np.sqrt((centred_RF**2).sum(0)))
        correlation_FF = np.abs(centred_RF.T @ centred_RF)
        kept: list[int] = []
        scores: dict[str, float] = {}
        dropped: dict[str, str] = {}
        for f, name in enumerate(names):
            if flat_F[f]:
                dropped[name] = "never varies"
                continue
            twin = kept[int(correlation_FF[f, kept].argmax())] if kept else None
            scores[name] = 0.0 if twin is None else min(float(correlation_FF[f, twin]), 1.0)
            if twin is not None and scores[name] >= self.threshold:
                dropped[name] = f"correlation {scores[name]:.4f} with {names[twin]}"
            else:
                kept.append(f)
        return ColumnSelection(
            kind=self.kind,
            feature_columns=tuple(names),
            columns=tuple(names[f] for f in kept),
            scores=scores,
            dropped=dropped,
        )
