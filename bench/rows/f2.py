"""F2: a full window of 60 bars x 60 features through a hybrid of 5.2M parameters, in 8 bits, on one core."""

from __future__ import annotations

import functools

from bench.harness import BenchRow
from bench.latency import window_median

ROW = BenchRow(
    id="F2",
    work="one window of 60 bars x 60 features, efficient_hybrid of 5.2M parameters, 8 bits, one core",
    peer="ONNX Runtime, float32, the graph as exported",
    target=0.65,
    prepare=functools.partial(window_median, int8=True, rounds=5, calls=2000),
    versions=("onnxruntime", "onnx", "torch", "numpy"),
)
