"""E1-1M: what our loop adds to a training step of a 1M parameter hybrid, over the plain torch loop on the same windows."""

from __future__ import annotations

import numpy as np

from bench.fits import run_fit
from bench.harness import BenchRow, Timed

ROUNDS = 9


def prepare() -> Timed:
    made = run_fit("1M", epochs=ROUNDS + 1, beside=True)
    np.testing.assert_allclose(made.ours_loss, made.peer_loss, rtol=1e-6)
    pairs = list(zip(made.ours_s, made.peer_s, strict=True))
    return Timed(pairs=pairs[1:], warm_up_s=pairs[0][0])


ROW = BenchRow(
    id="E1-1M",
    work="training step, hybrid of 1M parameters, 128 windows of 32 bars x 32 features, one core",
    peer="plain torch loop",
    target=1.03,
    prepare=prepare,
    versions=("torch", "lightning"),
    rounds=ROUNDS,
)
