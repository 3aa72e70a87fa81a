"""Keep the features that boosted trees use, or miss when they are shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import Selection, register_selector
from quantfleet.errors import ConfigError
from quantfleet_data.selection.base import Array, ColumnSelectorConfig, CompleteRows, complete_rows, take_best

__all__ = ["GainSelectorConfig", "PermutationSelectorConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BoostedSelectorConfig(ColumnSelectorConfig):
    """The trees behind both importances; small on purpose, they only have to find out what matters."""

    keep: int | None = None
    """At most so many features; None: all whose score is above the least."""
    task: Literal["regression", "classification"] = "regression"
    """classification: labels are 0 and 1."""
    rounds: int = 100
    depth: int = 4
    learning_rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "depth", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"selector {self.kind}: {name}={getattr(self, name)} must be positive.")
        if self.keep is not None and self.keep < 1:
            raise ConfigError(f"selector {self.kind}: keep={self.keep} must be at least 1, or null for all that count.")

    def _train(self, rows: CompleteRows) -> Any:
        import xgboost

        if self.task == "classification" and not np.isin(rows.y_R, (0.0, 1.0)).all():
            raise ConfigError(
                f"selector {self.kind}: task=classification reads labels 0 and 1 only. Use task=regression."
            )
        return xgboost.train(
            {
                "objective": "binary:logistic" if self.task == "classification" else "reg:squarederror",
                "max_depth": self.depth,
                "eta": self.learning_rate,
                "tree_method": "hist",
                "seed": self.seed,
                "nthread": 1,  # sums in one order, so the same rows give the same trees
                "verbosity": 0,
            },
            xgboost.DMatrix(rows.x_RF, label=rows.y_R),
            num_boost_round=self.rounds,
        )


@register_selector("gain")
@dataclass(frozen=True, kw_only=True, slots=True)
class GainSelectorConfig(BoostedSelectorConfig):
    """Boosting gain: how much of the loss each feature's splits took away, as a share of all. Fitted on all rows given.

    In-sample, so it flatters features with many distinct values; `permutation` does not.
    Source: Chen and Guestrin (2016), "XGBoost", eq. 7; importance_type total_gain.
    """

    least_share: float = 0.0
    """Features with no more than this share of the gain are dropped."""

    def fit(
        self,
        x_RF: npt.NDArray[np.float32],
        y_R: npt.NDArray[np.float32] | None,
        names: Sequence[str],
        *,
        time_R: npt.NDArray[np.int64] | None = None,
        horizon_bars: int = 0,
    ) -> Selection:
        rows = complete_rows(self.kind, x_RF, y_R, names, time_R, labelled=True)
        gain = self._train(rows).get_score(importance_type="total_gain")
        gain_F = np.array([float(gain.get(f"f{i}", 0.0)) for i in range(len(names))])
        share_F = gain_F / max(gain_F.sum(), np.finfo(np.float64).tiny)
        return take_best(self.kind, names, share_F, keep=self.keep, least=self.least_share, unit="share of gain")


@register_selector("permutation")
@dataclass(frozen=True, kw_only=True, slots=True)
class PermutationSelectorConfig(BoostedSelectorConfig):
    """Permutation importance: by what share the error on a held-out tail grows when a feature's values are shuffled there.

    The tail are the last times of the training rows; rows whose label reaches into it are left out of the fit. Validation
    and test are not touched. Features of no more than `least_growth` are dropped: shuffled, they do no harm.
    Source: Breiman (2001), "Random Forests", 10; Fisher, Rudin and Dominici (2019), arXiv:1801.01489, eq. 5.
    """

    tail_share: float = 0.25
    repeats: int = 5
    least_growth: float = 0.0

    def __post_init__(self) -> None:
        super(PermutationSelectorConfig, self).__post_init__()
        if not 0.0 < self.tail_share < 1.0 or self.repeats < 1:
            raise ConfigError(
                f"selector permutation: tail_share={self.tail_share} must lie between 0 and 1, and repeats={self.repeats} be at "
                "least 1."
            )

    def fit(
        self,
        x_RF: npt.NDArray[np.float32],
        y_R: npt.NDArray[np.float32] | None,
        names: Sequence[str],
        *,
        time_R: npt.NDArray[np.int64] | None = None,
        horizon_bars: int = 0,
    ) -> Selection:
        rows = complete_rows(self.kind, x_RF, y_R, names, time_R, labelled=True)
        head, tail = rows.split_tail(self.tail_share, horizon_bars)
        trees = self._train(head)
        before = self._error(trees, tail.x_RF, tail.y_R)
        random, growth_F = np.random.default_rng(self.seed), np.zeros(len(names))
        for f in range(len(names)):
            own = tail.x_RF[:, f].copy()
            for _ in range(self.repeats):
                tail.x_RF[:, f] = random.permutation(own)
                growth_F[f] += self._error(trees, tail.x_RF, tail.y_R) / before - 1.0
            tail.x_RF[:, f] = own
        growth_F /= self.repeats
        return take_best(
            self.kind, names, growth_F, keep=self.keep, least=self.least_growth, unit="growth of the error"
        )

    def _error(self, trees: Any, x_RF: Array, y_R: Array) -> float:
        """Mean squared error, or mean log loss."""
        answer_R = trees.inplace_predict(x_RF).astype(np.float64)
        if self.task == "regression":
            return float(np.mean((answer_R - y_R) ** 2)) or np.finfo(np.float64).tiny
        answer_R = np.clip(answer_R, 1e-7, 1 - 1e-7)
        return float(-np.mean(y_R * np.log(answer_R) + (1 - y_R) * np.log(1 - answer_R)))
