"""E2: two workers over gloo against one: core-seconds per window. A target of 82 % efficiency is a ratio of 1 / 0.82."""

from __future__ import annotations

import statistics

from bench.fits import run_fit
from bench.harness import BenchRow, Timed

ROUNDS, EPOCHS = 5, 3


def prepare() -> Timed:
    pairs = []
    for number in range(ROUNDS + 1):
        order = (1, 2) if number % 2 else (2, 1)
        made = {workers: run_fit("1M", epochs=EPOCHS, workers=workers) for workers in order}
        assert made[2].ours_loss[-1] < made[2].ours_loss[0], "two workers learn nothing"
        # a step of two workers takes twice the windows on twice the cores
        pairs.append((statistics.median(made[2].ours_s[1:]), statistics.median(made[1].ours_s[1:])))
    return Timed(pairs=pairs[1:], warm_up_s=pairs[0][0])


ROW = BenchRow(
    id="E2",
    work="core-seconds of a training step, hybrid of 1M parameters, 128 windows a worker, 2 workers over gloo",
    peer="1 worker",
    target=1 / 0.82,
    prepare=prepare,
    versions=("torch",),
    cores=2,
    rounds=ROUNDS,
)
