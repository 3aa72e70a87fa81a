"""Principal components: fewer, uncorrelated columns out of many related ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import Selection, SelectorConfig, register_selector
from quantfleet.errors import ConfigError, SchemaError
from quantfleet_data.selection.base import Array, complete_rows

__all__ = ["PrincipalComponents", "PrincipalComponentsConfig"]


class PrincipalComponents(Selection):
    """Standardised features times loadings. Scores: each component's share of the variance.

    Products are added up feature by feature in float64, so a row has the same bits alone and in any batch (a matrix
    product would not).
    """

    def __init__(
        self, *, feature_columns: tuple[str, ...], mean_F: Array, std_F: Array, loadings_GF: Array, shares_G: Array
    ) -> None:
        """Make a selection. Raises: SchemaError: shapes do not fit, or a deviation is not positive."""
        G, F = len(loadings_GF), len(feature_columns)
        if (
            G < 1
            or loadings_GF.shape != (G, F)
            or mean_F.shape != (F,)
            or std_F.shape != (F,)
            or shares_G.shape != (G,)
        ):
            raise SchemaError(f"principal components of {F} features hold loadings of shape {loadings_GF.shape}.")
        if not (np.isfinite(loadings_GF).all() and np.isfinite(mean_F).all() and (std_F > 0).all()):
            raise SchemaError(
                "principal components hold numbers that are not finite, or deviations that are not positive."
            )
        self.kind = PrincipalComponentsConfig.kind
        self.feature_columns = feature_columns
        self.columns = tuple(f"component_{i}" for i in range(G))
        self.scores = dict(zip(self.columns, shares_G.tolist(), strict=True))
        self.mean_F, self.std_F, self.loadings_GF = mean_F, std_F, loadings_GF

    def _transformed(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        total = np.zeros((*x.shape[:-1], len(self.columns)))
        for f in range(len(self.feature_columns)):
            standardised = (x[..., f].astype(np.float64) - self.mean_F[f]) / self.std_F[f]
            total += standardised[..., None] * self.loadings_GF[:, f]
        return total.astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "feature_columns": list(self.feature_columns),
            "mean": self.mean_F.tolist(),
            "std": self.std_F.tolist(),
            "loadings": self.loadings_GF.tolist(),
            "shares": list(self.scores.values()),
        }


@register_selector("pca")
@dataclass(frozen=True, kw_only=True, slots=True)
class PrincipalComponentsConfig(SelectorConfig):
    """Principal components of the standardised features. Reads no label.

    Each component's sign is such that its largest loading is positive, so the same rows give the same components. A feature that
    never varies loads on none. Source: Jolliffe (2002), Principal Component Analysis, 2.3.
    """

    components: int | None = None
    """How many; None: as many as hold `variance_share` together."""
    variance_share: float = 0.95

    def __post_init__(self) -> None:
        if self.components is not None and self.components < 1:
            raise ConfigError(f"selector pca: components={self.components} must be at least 1, or null.")
        if not 0.0 < self.variance_share <= 1.0:
            raise ConfigError(f"selector pca: variance_share={self.variance_share} must lie above 0 and at most at 1.")

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
        flat_F = np.ptp(values_RF, axis=0) == 0.0
        if flat_F.all():
            raise ConfigError("selector pca: no feature varies in the training rows; there is nothing to turn.")
        if self.components is not None and self.components > int((~flat_F).sum()):
            raise ConfigError(
                f"selector pca: components={self.components} of {int((~flat_F).sum())} features that vary."
            )
        mean_F = values_RF.mean(0)
        std_F = np.where(flat_F, 1.0, values_RF.std(0))
        standardised_RF = np.where(flat_F, 0.0, (values_RF - mean_F) / std_F)
        variance_G, vectors_FG = np.linalg.eigh(standardised_RF.T @ standardised_RF / len(values_RF))
        order = np.argsort(-variance_G, kind="stable")
        shares_G = np.maximum(variance_G[order], 0.0) / np.maximum(variance_G, 0.0).sum()
        enough = int(np.searchsorted(np.cumsum(shares_G), self.variance_share - 1e-12)) + 1
        G = min(self.components or enough, len(names))
        loadings_GF = vectors_FG.T[order][:G]
        largest_G = np.take_along_axis(loadings_GF, np.abs(loadings_GF).argmax(1)[:, None], 1)
        return PrincipalComponents(
            feature_columns=tuple(names),
            mean_F=mean_F,
            std_F=std_F,
            loadings_GF=loadings_GF * np.where(largest_G < 0, -1.0, 1.0),
            shares_G=shares_G[:G],
        )

    @classmethod
    def restore(cls, record: Mapping[str, Any]) -> Selection:
        return PrincipalComponents(
            feature_columns=tuple(record["feature_columns"]),
            mean_F=np.array(record["mean"]),
            std_F=np.array(record["std"]),
            loadings_GF=np.array(record["loadings"]),
            shares_G=np.array(record["shares"]),
        )
