"""J3: probability of backtest overfitting over 16 blocks, against the definition split by split on the returns themselves."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from bench.harness import BenchRow, Prepared
from quantfleet.evaluation import probability_of_overfitting

BARS, STRATEGIES, BLOCKS = 5000, 1000, 16
PEER_SPLITS = 20
"""The loop takes minutes for all 12,870; it is timed on these, spread over the list."""


def naive_logits(returns_TN: Any, splits: Any) -> Any:
    """Log-odds of the rank out of sample of the best in sample, each split from its own bars."""
    cut = returns_TN[len(returns_TN) % BLOCKS :].reshape(BLOCKS, -1, returns_TN.shape[1])
    logits = []
    for chosen in splits:
        rest = [block for block in range(BLOCKS) if block not in chosen]
        inside, outside = (np.concatenate(cut[list(blocks)]) for blocks in (chosen, rest))
        best = np.argmax(inside.mean(axis=0) / inside.std(axis=0, ddof=1))
        ratios = outside.mean(axis=0) / outside.std(axis=0, ddof=1)
        share = (ratios <= ratios[best]).sum() / (returns_TN.shape[1] + 1.0)
        logits.append(np.log(share / (1.0 - share)))
    return np.array(logits)


def prepare() -> Prepared:
    """Independent returns of a thousand strategies without skill."""
    returns = np.random.default_rng(0).normal(0.0, 0.01, (BARS, STRATEGIES))
    every = list(itertools.combinations(range(BLOCKS), BLOCKS // 2))
    places = np.linspace(0, len(every) - 1, PEER_SPLITS).astype(int)
    splits = [every[place] for place in places]

    def check(ours: Any, peer: Any) -> None:
        np.testing.assert_allclose(ours.logit_C[places], peer, rtol=1e-9, atol=1e-12)

    return Prepared(
        ours=lambda: probability_of_overfitting(returns, blocks=BLOCKS),
        peer=lambda: naive_logits(returns, splits),
        check=check,
        ours_units=1.0,
        peer_units=PEER_SPLITS / len(every),
    )


ROW = BenchRow(
    id="J3",
    work="PBO by CSCV, 16 blocks (12,870 splits), 1000 strategies x 5k bars",
    peer="naive loop over splits",
    target=0.001,
    prepare=prepare,
    versions=("numba", "numpy"),
)
