"""B2: fractional differencing over a fixed window, against SciPy's overlap-add convolution."""

from __future__ import annotations

import numpy as np
from scipy.signal import oaconvolve

from bench.harness import BenchRow, Prepared
from quantfleet_data.features.fractional import causal_convolution, fractional_weights

ROWS = 1_000_000
ORDER, THRESHOLD, WIDTH = 0.4, 1e-5, 1458


def prepare() -> Prepared:
    weights = fractional_weights(ORDER, THRESHOLD)
    assert len(weights) == WIDTH
    kernel = np.array(weights)
    logs = np.log(100.0) + np.cumsum(np.random.default_rng(0).normal(0.0, 0.01, ROWS))

    def check(ours: np.ndarray, peer: np.ndarray) -> None:
        assert np.abs(ours - peer).max() < 1e-12
        exact = np.convolve(logs[:20_000], kernel)[:20_000]
        assert np.abs(ours[:20_000] - exact).max() < 1e-12
        for bars in (1, WIDTH, 128 * 64 + 77):  # what SciPy does not promise: later bars change no bit
            assert causal_convolution(logs[:bars], weights).tobytes() == ours[:bars].tobytes()

    return Prepared(
        ours=lambda: causal_convolution(logs, weights), peer=lambda: oaconvolve(logs, kernel)[:ROWS], check=check
    )


ROW = BenchRow(
    id="B2",
    work="fractional differencing, 1M rows, width 1458",
    peer="scipy.signal.oaconvolve",
    target=1.2,
    prepare=prepare,
    versions=("numpy", "scipy", "numba"),
    rounds=15,
)
