"""B1w: triple barrier over 1000 bars with wide barriers, where whole blocks of bars can be skipped."""

from __future__ import annotations

from functools import partial

from bench.harness import BenchRow
from bench.rows.b1 import prepare

ROW = BenchRow(
    id="B1w",
    work="triple barrier, 1M events, horizon 1000, barriers at 40 volatilities",
    peer="early-exit numba scan",
    target=0.35,
    prepare=partial(prepare, 1000, 40.0),
    versions=("numba", "numpy"),
)
