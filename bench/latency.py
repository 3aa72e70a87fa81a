"""Answers of an exported model of five million parameters on one core, beside ONNX Runtime's on the plain float32 graph.

The peer is what an export without us comes to: the graph as torch writes it, `session.run`, state passed on as arrays. It is given
scaled features; ours gets raw ones and scales them. Time is that of the thread (there is one a session), so that a percentile tells
of the work and not of the turns that other processes have taken; on a core of one's own it is the time that passes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from bench.harness import Timed
from quantfleet.contracts import DataSpec
from quantfleet.serving.onnx import OnnxStreams, OnnxWindows, export_onnx
from quantfleet.serving.onnx.export import BEGIN_FILE, FLOAT_TOLERANCE, GRAPH_FILE, INT8_TOLERANCE, session
from quantfleet.training.torch_model import TorchModel
from quantfleet.transforms import AffineScaler, InputTransform
from quantfleet_models.efficient_hybrid import EfficientHybridConfig

__all__ = ["stream_p99", "window_median"]

BARS, FEATURES = 60, 60
SPEC = DataSpec(
    symbols=("A",), feature_columns=tuple(f"f{i}" for i in range(FEATURES)), feature_digest="", horizons_bars=(1, 5, 21),
    timeframe="1m", lookback_bars=BARS, chunk_bars=64,
)  # fmt: skip
BLOCK = 100
"""Calls of one side in a row: long enough for its weights to be in the cache, short enough to meet the same neighbours."""


def make_model() -> TorchModel:
    """5.2 million parameters, random; a scaler that does nothing but takes its time."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = TorchModel(EfficientHybridConfig(), SPEC)
    one = np.ones((1, FEATURES))
    scaler = AffineScaler(
        kind="standard", feature_columns=SPEC.feature_columns, centre_SF=0 * one, scale_SF=one, clip=10.0
    )
    model.inputs = InputTransform(SPEC, scaler)
    return model


def stream_p99(*, int8: bool, rounds: int, calls: int) -> Timed:
    """99th percentile of the seconds of one new bar, over `calls` bars a side, a pair a round."""
    model = make_model()
    with tempfile.TemporaryDirectory(prefix="quantfleet-bench-f-") as name:
        export_onnx(model, Path(name, "plain"), stream=True)
        export_onnx(model, Path(name, "ours"), stream=True, int8=int8)
        streams, plain = OnnxStreams(Path(name, "ours"), ["A"]), session(Path(name, "plain", GRAPH_FILE))
        begin = load_file(Path(name, "plain", BEGIN_FILE))
        states = [f"state_{i}" for i in range(len(begin))]
        heads = len(plain.get_outputs()) - len(states)
        carried: dict[str, Any] = dict(begin)

        def ours(x_1F: np.ndarray) -> np.ndarray:
            answer = streams.push(x_1F)
            assert answer is not None
            return answer["return"]

        def peer(x_1F: np.ndarray) -> np.ndarray:
            made = plain.run(None, {"x": x_1F, **carried})
            carried.update(zip(states, made[heads:], strict=True))
            value: np.ndarray = made[0]
            return value

        return _in_blocks(ours, peer, (1, FEATURES), 0.99, int8=int8, rounds=rounds, calls=calls)


def window_median(*, int8: bool, rounds: int, calls: int) -> Timed:
    """Median of the seconds of one full window, a pair a round."""
    model = make_model()
    with tempfile.TemporaryDirectory(prefix="quantfleet-bench-f-") as name:
        export_onnx(model, Path(name, "plain"))
        export_onnx(model, Path(name, "ours"), int8=int8)
        windows, plain = OnnxWindows(Path(name, "ours")), session(Path(name, "plain", GRAPH_FILE))

        def peer(x_NLF: np.ndarray) -> np.ndarray:
            value: np.ndarray = plain.run(None, {"x": x_NLF})[0]
            return value

        return _in_blocks(
            lambda x_NLF: windows.answer(x_NLF, ["A"])["return"], peer, (1, BARS, FEATURES), 0.5, int8=int8, rounds=rounds,
            calls=calls,
        )  # fmt: skip


Answer = Callable[[np.ndarray], np.ndarray]


def _in_blocks(
    ours: Answer, peer: Answer, shape: tuple[int, ...], quantile: float, *, int8: bool, rounds: int, calls: int
) -> Timed:
    """Check on a first block, then rounds of blocks in turn. Raises: AssertionError: ours is further from the peer than allowed."""
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    check = rng.standard_normal((BLOCK, *shape), np.float32)
    right = np.stack([peer(x) for x in check])
    left = np.stack([ours(x) for x in check])
    warm_up_s = time.perf_counter() - began
    difference, spread = left - right, right.std()
    assert spread > 0
    if int8:
        assert np.sqrt(np.mean(difference**2)) <= INT8_TOLERANCE * spread
    else:
        assert np.abs(difference).max() <= 2 * FLOAT_TOLERANCE * spread
    pairs = []
    for _ in range(rounds):
        seconds: tuple[list[float], list[float]] = ([], [])
        for block in range(calls // rounds // BLOCK):
            inputs = rng.standard_normal((BLOCK, *shape), np.float32)
            for side in (1, 0) if block % 2 else (0, 1):
                answer = (ours, peer)[side]
                for x in inputs:
                    start = time.thread_time()
                    answer(x)
                    seconds[side].append(time.thread_time() - start)
        pairs.append((float(np.quantile(seconds[0], quantile)), float(np.quantile(seconds[1], quantile))))
    return Timed(pairs=pairs, warm_up_s=warm_up_s)
