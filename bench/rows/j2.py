"""J2: a million iid bootstrap resamples of a Sharpe ratio, against `arch`."""

from __future__ import annotations

from bench.harness import BenchRow, Prepared
from bench.resampling import prepare_resampling


def prepare() -> Prepared:
    from arch.bootstrap import IIDBootstrap

    return prepare_resampling(1.0, lambda returns: IIDBootstrap(returns, seed=2))


ROW = BenchRow(
    id="J2",
    work="1M iid bootstrap resamples of a Sharpe ratio, 5k bars",
    peer="arch.bootstrap.IIDBootstrap",
    target=0.083,
    prepare=prepare,
    versions=("arch", "numba", "numpy"),
)
