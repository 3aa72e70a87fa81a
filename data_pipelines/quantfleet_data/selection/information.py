"""Keep the features that share information with the label, straight or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import Selection, register_selector
from quantfleet.errors import ConfigError
from quantfleet_data.selection.base import ColumnSelectorConfig, complete_rows, take_best

__all__ = ["MutualInformationSelectorConfig"]


@register_selector("mutual_information")
@dataclass(frozen=True, kw_only=True, slots=True)
class MutualInformationSelectorConfig(ColumnSelectorConfig):
    """Mutual information of each feature alone with the label, in nats, by nearest neighbours; finds bent dependence too.

    Source: Kraskov, Stoegbauer and Grassberger (2004), eq. 8; Ross (2014) for labels that are classes; scikit-learn's
    estimators.
    """

    keep: int | None = None
    least_nats: float = 0.0
    """Features with no more than this are dropped."""
    task: Literal["regression", "classification"] = "regression"
    neighbours: int = 3
    rows: int = 20_000
    """At most so many, evenly spread over time: the time per feature grows faster than the rows."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("neighbours", "rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"selector mutual_information: {name}={getattr(self, name)} must be at least 1.")
        if self.keep is not None and self.keep < 1:
            raise ConfigError(f"selector mutual_information: keep={self.keep} must be at least 1, or null.")

    def fit(
        self,
        x_RF: npt.NDArray[np.float32],
        y_R: npt.NDArray[np.float32] | None,
        names: Sequence[str],
        *,
        time_R: npt.NDArray[np.int64] | None = None,
        horizon_bars: int = 0,
    ) -> Selection:
        from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

        rows = complete_rows(self.kind, x_RF, y_R, names, time_R, labelled=True).thinned(self.rows)
        estimate = mutual_info_classif if self.task == "classification" else mutual_info_regression
        nats_F = estimate(rows.x_RF, rows.y_R, n_neighbors=self.neighbours, random_state=self.seed, n_jobs=1)
        return take_best(self.kind, names, np.asarray(nats_F), keep=self.keep, least=self.least_nats, unit="nats")
