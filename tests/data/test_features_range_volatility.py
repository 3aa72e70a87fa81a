"""Yang-Zhang and Rogers-Satchell: unbiased where the others are not, and equal to their formulas."""

import math

import numpy as np
import polars as pl
import pytest

from quantfleet_data.features.range_volatility import RogersSatchell, YangZhang
from quantfleet_data.features.volatility import Parkinson


def continuous_bars(rows, steps, *, sigma, drift, gap, seed):
    """Bars of a Brownian motion with drift, and gaps of their own between bars."""
    rng = np.random.default_rng(seed)
    path = np.empty((rows, 4))
    level = 0.0
    for i in range(rows):
        opened = level + rng.normal(0.0, gap)
        walk = opened + np.cumsum(rng.normal(drift / steps, sigma / math.sqrt(steps), steps))
        path[i] = opened, max(walk.max(), opened), min(walk.min(), opened), walk[-1]
        level = walk[-1]
    return pl.DataFrame({n: np.exp(path[:, i]) for i, n in enumerate(("open", "high", "low", "close"))})


def test_rogers_satchell_is_free_of_drift_where_parkinson_is_not():
    bars = continuous_bars(4000, 1000, sigma=0.02, drift=0.02, gap=0.0, seed=1)
    assert RogersSatchell(bars=4000).compute(bars)[-1] == pytest.approx(0.02, rel=0.06)
    assert Parkinson(bars=4000).compute(bars)[-1] > 0.022


def test_yang_zhang_counts_gaps_and_range_and_no_drift():
    bars = continuous_bars(4000, 1000, sigma=0.02, drift=0.01, gap=0.01, seed=2)
    assert YangZhang(bars=3999).compute(bars)[-1] == pytest.approx(math.hypot(0.02, 0.01), rel=0.05)


def test_both_equal_their_formulas(make_bars):
    bars = make_bars(3, 60)
    o, h, low, c = (np.log(bars[n].to_numpy()) for n in ("open", "high", "low", "close"))
    n = 21
    rs = ((h - c) * (h - o) + (low - c) * (low - o))[-n:].mean()
    assert RogersSatchell(bars=n).compute(bars)[-1] == pytest.approx(math.sqrt(rs), rel=1e-9)
    k = 0.34 / (1.34 + (n + 1) / (n - 1))
    gaps, bodies = (o[1:] - c[:-1])[-n:], (c - o)[-n:]
    variance = gaps.var(ddof=1) + k * bodies.var(ddof=1) + (1 - k) * rs
    assert YangZhang(bars=n).compute(bars)[-1] == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_a_still_market_has_no_volatility_and_bars_that_contradict_themselves_no_nan(write_bars):
    still, outside = write_bars([[7.0]] * 40), write_bars([[10.0, 10.1, 10.0, 20.0]] * 40)
    for feature in (RogersSatchell(), YangZhang()):
        assert feature.compute(still)[-1] == 0.0
        assert np.isfinite(feature.compute(outside)[-1])
