"""F1: one new bar of a causal model of 5.2M parameters, float32, 10k bars on one core: the 99th percentile.

The design asks for p99 <= 0.5 ms where ONNX Runtime takes 0.49 ms in float32; as a ratio that holds on any machine.
"""

from __future__ import annotations

import functools

from bench.harness import BenchRow
from bench.latency import stream_p99

ROW = BenchRow(
    id="F1",
    work="p99 of one new bar, efficient_hybrid of 5.2M parameters, float32, 10k bars, one core",
    peer="ONNX Runtime, float32, the graph as exported",
    target=0.5 / 0.49,
    prepare=functools.partial(stream_p99, int8=False, rounds=5, calls=10_000),
    versions=("onnxruntime", "onnx", "torch", "numpy"),
)
