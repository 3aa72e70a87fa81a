"""E1: what our loop adds to a training step of a 0.27M parameter hybrid, over the plain torch loop on the same windows."""

from __future__ import annotations

import functools

from bench.fits import against_plain
from bench.harness import BenchRow

ROUNDS = 9


ROW = BenchRow(
    id="E1",
    work="training step, hybrid of 0.27M parameters, 128 windows of 32 bars x 32 features, one core",
    peer="plain torch loop",
    target=1.03,
    prepare=functools.partial(against_plain, "0.27M", rounds=ROUNDS),
    versions=("torch",),
    rounds=ROUNDS,
)
