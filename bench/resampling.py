"""What the rows J1 and J2 share: a million resamples of a Sharpe ratio, and the same drawn by `arch`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.harness import Prepared
from quantfleet.evaluation import resample_sharpes

__all__ = ["PEER_RESAMPLES", "prepare_resampling"]

BARS, RESAMPLES = 5000, 1_000_000
PEER_RESAMPLES = 2000
"""The peer would take minutes for a million."""


def ratio(returns_T: Any) -> Any:
    return np.atleast_1d(returns_T.mean() / returns_T.std(ddof=1))


def prepare_resampling(block_bars: float, draw: Callable[[Any], Any]) -> Prepared:
    """Autocorrelated returns with fat tails.

    Args:
        draw: the peer's resampler of a series.
    """
    shocks = np.random.default_rng(0).standard_t(4, BARS + 1) * 0.01
    returns = 0.0004 + shocks[1:] + 0.2 * shocks[:-1]
    peer = draw(returns)

    def check(ours: Any, theirs: Any) -> None:
        """The same distribution: Kolmogorov and Smirnov's distance below its 0.1 % critical value, and equal mean and spread."""
        ours, theirs = np.sort(ours[:, 0]), np.sort(theirs[:, 0])
        apart = [np.searchsorted(ours, theirs, side) / len(ours) - np.arange(i, len(theirs) + i) / len(theirs)
                 for side, i in (("left", 0), ("right", 1))]  # fmt: skip
        assert np.abs(apart).max() < 1.95 / math.sqrt(len(theirs))
        assert abs(ours.mean() - theirs.mean()) < 4.0 * theirs.std() / math.sqrt(len(theirs))
        assert abs(ours.std() / theirs.std() - 1.0) < 4.0 / math.sqrt(2.0 * len(theirs))

    return Prepared(
        ours=lambda: resample_sharpes(returns, block_bars=block_bars, resamples=RESAMPLES, seed=1),
        peer=lambda: peer.apply(ratio, PEER_RESAMPLES),
        check=check,
        peer_units=PEER_RESAMPLES / RESAMPLES,
    )
