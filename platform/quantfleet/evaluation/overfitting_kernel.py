"""The compiled loop behind the probability of backtest overfitting.

Shapes: T bars, N strategies, S blocks, C dealings of half of the blocks, C / 2 pairs of a dealing and its complement.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["block_sums", "rank_best"]

Doubles: TypeAlias = npt.NDArray[np.float64]


@njit(cache=True, nogil=True, error_model="numpy")
def block_sums(returns_TN: Doubles, mean_N: Doubles, sum_SN: Doubles, square_SN: Doubles) -> None:
    """Sums of the returns less their mean, and of its squares, over blocks of equal length; the sums are filled."""
    blocks, strategies = sum_SN.shape
    length = returns_TN.shape[0] // blocks
    for s in range(blocks):
        sum_N, square_N = sum_SN[s], square_SN[s]
        sum_N[:], square_N[:] = 0.0, 0.0
        for t in range(s * length, (s + 1) * length):
            row_N = returns_TN[t]
            for n in range(strategies):
                away = row_N[n] - mean_N[n]
                sum_N[n] += away
                square_N[n] += away * away


@njit(cache=True, nogil=True, error_model="numpy")
def _scores(
    total_N: Doubles, squares_N: Doubles, mean_N: Doubles, floor_N: Doubles, bars: int, score_N: Doubles
) -> bool:
    """What orders strategies as their Sharpe ratios do, the signed square, without a root; False where one has no ratio."""
    share, undefined = 1.0 / bars, 0
    for n in range(len(score_N)):
        total = total_N[n]
        spread = squares_N[n] - total * total * share
        mean = mean_N[n] + total * share
        undefined += spread <= floor_N[n]
        score_N[n] = mean * abs(mean) / spread
    return undefined == 0


@njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"}
)  # lets the maximum run in vectors; scores are numbers
def _rank(inside_N: Doubles, outside_N: Doubles) -> Any:
    """Rank out of sample of the first that is best in sample; 1 is the worst, and equals share the higher rank."""
    best = inside_N[0]
    for n in range(len(inside_N)):
        best = inside_N[n] if inside_N[n] > best else best
    place = 0
    while inside_N[place] < best:
        place += 1
    bound, rank = outside_N[place], 0
    for n in range(len(outside_N)):
        rank += outside_N[n] <= bound
    return rank


@njit(cache=True, nogil=True, error_model="numpy")
def rank_best(
    chosen_CH: npt.NDArray[np.int64],
    sum_SN: Doubles,
    square_SN: Doubles,
    mean_N: Doubles,
    length: int,
    rank_C: npt.NDArray[np.int64],
) -> bool:
    """Rank out of sample, for each dealing, of the strategy that is best in sample.

    Sums of a dealing's first h blocks are kept for each h, and made anew from where the next dealing differs.

    Args:
        chosen_CH: every way to choose half of the blocks, in the order of `itertools.combinations`, where a dealing and its
            complement stand at mirrored places.
        length: bars a block.
        rank_C: filled.
    Returns: False, with ranks unfinished, where a strategy's returns are all equal within half of the blocks.
    """
    dealings, half = chosen_CH.shape
    strategies = sum_SN.shape[1]
    bars = length * half
    grand_N, all_N = np.zeros(strategies), np.zeros(strategies)
    for s in range(len(sum_SN)):
        for n in range(strategies):
            grand_N[n] += sum_SN[s, n]
            all_N[n] += square_SN[s, n]
    floor_N = 1e-12 * all_N / 2.0
    total_HN, squares_HN = np.zeros((half + 1, strategies)), np.zeros((half + 1, strategies))
    rest_N, restsq_N = np.empty(strategies), np.empty(strategies)
    inside_N, outside_N = np.empty(strategies), np.empty(strategies)
    for c in range(dealings // 2):
        same = 0
        if c > 0:
            while chosen_CH[c, same] == chosen_CH[c - 1, same]:
                same += 1
        for h in range(same, half):
            block = chosen_CH[c, h]
            for n in range(strategies):
                total_HN[h + 1, n] = total_HN[h, n] + sum_SN[block, n]
                squares_HN[h + 1, n] = squares_HN[h, n] + square_SN[block, n]
        for n in range(strategies):
            rest_N[n] = grand_N[n] - total_HN[half, n]
            restsq_N[n] = all_N[n] - squares_HN[half, n]
        if not _scores(total_HN[half], squares_HN[half], mean_N, floor_N, bars, inside_N):
            return False
        if not _scores(rest_N, restsq_N, mean_N, floor_N, bars, outside_N):
            return False
        rank_C[c] = _rank(inside_N, outside_N)
        rank_C[dealings - 1 - c] = _rank(outside_N, inside_N)
    return True
