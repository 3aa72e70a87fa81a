"""Are the inputs of the test period of a kind the model was taught? Distances to training rows, and a classifier two-sample test.

Rows follow each other in time and are not independent, so both methods work on blocks of neighbouring rows, and judge by rows that
taught them nothing. Memory: the samples that are given, and a batch of distances.

Shapes: N rows in the order of time, F features, B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantfleet.errors import DataError

__all__ = ["InputShift", "MahalanobisReference", "input_shift", "two_sample_test"]

Array = npt.NDArray[np.float64]

USUAL = 0.99
"""A row is out of the training distribution where its distance is larger than that of so many unseen training rows."""
_BATCH = 65_536
_PARTS = 10
_TOP = 5


@dataclass(frozen=True, slots=True)
class MahalanobisReference:
    """Mean and covariance of the reference, shrunk; distances in standard deviations of it.

    Source: Mahalanobis 1936; shrinkage: Ledoit and Wolf 2004, J. of Multivariate Analysis 88(2):365-411.
    """

    mean_F: Array
    scale_F: Array
    """Standard deviations; 1 for a feature that does not move."""
    factor_FF: Array
    """Lower Cholesky factor of the shrunk covariance of standardised features."""

    @classmethod
    def of(cls, x_NF: npt.NDArray[np.floating]) -> MahalanobisReference:
        """Raises: DataError: fewer than two rows, or values that are not finite."""
        from sklearn.covariance import ledoit_wolf

        if len(x_NF) < 2 or not np.isfinite(x_NF).all():
            raise DataError(
                f"{len(x_NF)} rows, all finite: {bool(np.isfinite(x_NF).all())}; a reference needs at least 2, all finite."
            )
        x = np.asarray(x_NF, dtype=np.float64)
        mean_F, scale_F = x.mean(axis=0), x.std(axis=0)
        moves_F = scale_F > 1e-12 * np.maximum(np.abs(mean_F), 1.0)
        scale_F = np.where(moves_F, scale_F, 1.0)
        covariance_FF, _ = ledoit_wolf((x - mean_F) / scale_F, assume_centered=True)
        covariance_FF[~moves_F, ~moves_F] += 1.0  # no variance there: any change counts by its size
        return cls(mean_F, scale_F, np.linalg.cholesky(covariance_FF))

    def distance(self, x_NF: npt.NDArray[np.floating]) -> Array:
        """Shape (N,), at least 0; about the square root of F for rows of the reference."""
        from scipy.linalg import solve_triangular

        found_N = np.empty(len(x_NF))
        for first in range(0, len(x_NF), _BATCH):
            part = slice(first, first + _BATCH)
            standard_NF = (np.asarray(x_NF[part], dtype=np.float64) - self.mean_F) / self.scale_F
            found_N[part] = np.sqrt(
                (solve_triangular(self.factor_FF, standard_NF.T, lower=True, check_finite=False) ** 2).sum(axis=0)
            )
        return found_N


@dataclass(frozen=True, kw_only=True, slots=True)
class InputShift:
    """The test period's inputs against those of training."""

    reference_rows: int
    current_rows: int
    threshold: float
    """Distance that 1 % of unseen training rows exceed."""
    out_share: float
    """Share of the test rows beyond it: 0.01 where nothing moved."""
    out_by_part: tuple[tuple[str, float], ...]
    """(first time, share) of tenths of the test rows in the order of time."""
    auc: float
    """How well a classifier tells unseen test rows from unseen training rows: 0.5 not at all, 1 always."""
    auc_p: float
    """Chance of so large an AUC if blocks of the two periods could be swapped."""
    moved: tuple[tuple[str, float], ...]
    """(feature, difference of means in standard deviations of training) of the features that moved most."""


def input_shift(
    reference_NF: npt.NDArray[np.floating],
    current_NF: npt.NDArray[np.floating],
    current_time_N: npt.NDArray[np.datetime64],
    names: tuple[str, ...],
    *,
    blocks: int = 20,
    permutations: int = 9_999,
    seed: int = 7,
) -> InputShift:
    """Compare two samples of rows, each in the order of time; some ten thousand rows of each are plenty.

    Args:
        blocks: of each sample, an even number; they should be longer than what the features remember.
    Raises: DataError: fewer than 10 rows a block, other features, or values that are not finite.
    """
    if reference_NF.shape[1] != len(names) or current_NF.shape[1] != len(names):
        raise DataError(f"{reference_NF.shape[1]} and {current_NF.shape[1]} features do not fit {len(names)} names.")
    teach_N = _teaching(len(reference_NF), blocks)
    reference = MahalanobisReference.of(reference_NF[teach_N])
    threshold = float(np.quantile(reference.distance(reference_NF[~teach_N]), USUAL))
    distance_N = reference.distance(current_NF)
    out_N = distance_N > threshold
    if not np.isfinite(distance_N).all():
        raise DataError("the test rows hold values that are not finite; leave such rows out.")
    auc, p = two_sample_test(reference_NF, current_NF, blocks=blocks, permutations=permutations, seed=seed)
    moved_F = (current_NF.mean(axis=0, dtype=np.float64) - reference.mean_F) / reference.scale_F
    parts = [part for part in np.array_split(np.arange(len(out_N)), _PARTS) if len(part)]
    return InputShift(
        reference_rows=len(reference_NF),
        current_rows=len(current_NF),
        threshold=threshold,
        out_share=float(out_N.mean()),
        out_by_part=tuple((str(current_time_N[part[0]]), float(out_N[part].mean())) for part in parts),
        auc=auc,
        auc_p=p,
        moved=tuple((names[f], float(moved_F[f])) for f in np.argsort(-np.abs(moved_F))[:_TOP]),
    )


def two_sample_test(
    reference_NF: npt.NDArray[np.floating],
    current_NF: npt.NDArray[np.floating],
    *,
    blocks: int = 20,
    permutations: int = 9_999,
    seed: int = 7,
) -> tuple[float, float]:
    """Can a classifier tell one sample from the other?

    Boosted trees learn on the earlier half of both samples; on the later halves their AUC is taken, and compared with what it is
    when the blocks of these are dealt to the two samples at random. Blocks, not rows, so that neighbours are not counted as
    independent; halves, not every other block, so that no judged row has neighbours that taught.

    Returns: the AUC, and its p-value (one-sided, at least 1 / (permutations + 1)).
    Raises: DataError: fewer than 10 rows a block, or an odd number of blocks.
    Source: Lopez-Paz and Oquab 2017, arXiv:1610.06545.
    """
    from scipy.stats import rankdata
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = min(len(reference_NF), len(current_NF)) // blocks
    if blocks < 4 or blocks % 2:
        raise DataError(f"blocks={blocks} must be even and at least 4: one half of them teaches, the other judges.")
    if rows < 10:
        raise DataError(
            f"{len(reference_NF)} and {len(current_NF)} rows make blocks of {rows}; {blocks} blocks need at least {10 * blocks} "
            "of each."
        )
    x_2BRF = np.stack([_in_blocks(x_NF, blocks, rows) for x_NF in (reference_NF, current_NF)])
    features = x_2BRF.shape[-1]
    half = blocks // 2
    taught, judged = x_2BRF[:, :half].reshape(-1, features), x_2BRF[:, half:].reshape(-1, features)
    side_N = np.repeat([0, 1], len(taught) // 2)
    classifier = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=seed)
    chance_N = classifier.fit(taught, side_N).predict_proba(judged)[:, 1]
    rank_B = rankdata(chance_N).reshape(blocks, rows).sum(axis=1)  # half of the blocks are the reference's
    count = half * rows

    def auc(sums: Array) -> Array:
        return (sums - count * (count + 1) / 2) / (count * count)

    seen = float(auc(rank_B[half:].sum()))
    rng = np.random.default_rng(seed)
    dealt_PB = rng.permuted(np.tile(np.arange(blocks) >= half, (permutations, 1)), axis=1)
    larger = int((auc(dealt_PB @ rank_B) >= seen - 1e-12).sum())
    return seen, (larger + 1) / (permutations + 1)


def _in_blocks(x_NF: npt.NDArray[np.floating], blocks: int, rows: int) -> Array:
    """Shape (B, rows, F): blocks spread evenly over the sample, each of neighbours."""
    starts_B = np.linspace(0, len(x_NF) - rows, blocks).astype(int)
    return np.asarray(x_NF[starts_B[:, None] + np.arange(rows)], dtype=np.float64)


def _teaching(rows: int, blocks: int) -> npt.NDArray[np.bool_]:
    """Which rows lie in even blocks."""
    if rows < 10 * blocks:
        raise DataError(f"{rows} training rows are too few; {blocks} blocks need at least {10 * blocks}.")
    teach_N: npt.NDArray[np.bool_] = (np.arange(rows) * blocks // rows) % 2 == 0
    return teach_N
