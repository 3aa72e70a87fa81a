"""E1-1M: what our loop adds to a training step of a 1M parameter hybrid, over the plain torch loop on the same windows."""

from __future__ import annotations

import functools

from bench.fits import against_plain
from bench.harness import BenchRow

ROUNDS = 9


ROW = BenchRow(
    id="E1-1M",
    work="training step, hybrid of 1M parameters, 128 windows of 32 bars x 32 features, one core",
    peer="plain torch loop",
    target=1.03,
    prepare=functools.partial(against_plain, "1M", rounds=ROUNDS),
    versions=("torch",),
    rounds=ROUNDS,
)
