"""E3: ZeRO-2 on two CPU workers against DDP on two."""

from __future__ import annotations

import statistics

import numpy as np

from bench.fits import run_fit
from bench.harness import BenchRow, Timed
from quantfleet.training import DDPConfig, DeepSpeedConfig

ROUNDS, EPOCHS = 5, 3


def prepare() -> Timed:
    pairs = []
    strategies = {"zero": DeepSpeedConfig(zero_stage=2), "ddp": DDPConfig()}
    for number in range(ROUNDS + 1):
        order = ("zero", "ddp") if number % 2 else ("ddp", "zero")
        made = {name: run_fit("1M", epochs=EPOCHS, workers=2, strategy=strategies[name]) for name in order}
        np.testing.assert_allclose(made["zero"].ours_loss, made["ddp"].ours_loss, rtol=1e-4)
        pairs.append((statistics.median(made["zero"].ours_s[1:]), statistics.median(made["ddp"].ours_s[1:])))
    return Timed(pairs=pairs[1:], warm_up_s=pairs[0][0])


ROW = BenchRow(
    id="E3",
    work="training step under ZeRO-2, hybrid of 1M parameters, 128 windows a worker, 2 workers over gloo",
    peer="DDP, 2 workers",
    target=1.15,
    prepare=prepare,
    versions=("torch", "lightning", "deepspeed"),
    cores=2,
    rounds=ROUNDS,
)
