"""J1: a million stationary bootstrap resamples of a Sharpe ratio, against `arch`."""

from __future__ import annotations

from bench.harness import BenchRow, Prepared
from bench.resampling import prepare_resampling

BLOCK_BARS = 20


def prepare() -> Prepared:
    from arch.bootstrap import StationaryBootstrap

    return prepare_resampling(BLOCK_BARS, lambda returns: StationaryBootstrap(BLOCK_BARS, returns, seed=2))


ROW = BenchRow(
    id="J1",
    work="1M stationary bootstrap resamples of a Sharpe ratio, 5k bars, mean block 20",
    peer="arch.bootstrap.StationaryBootstrap",
    target=0.04,
    prepare=prepare,
    versions=("arch", "numba", "numpy"),
)
