"""The barrier kernel against the plain loop, meta-labels and timeouts against their definitions."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError
from quantfleet_data.features.trend import SmaRatio
from quantfleet_data.labels import LabelsConfig, MetaLabel, TripleBarrier, assert_settled
from quantfleet_data.labels.barriers import first_touch

DAY = Timeframe("1d")


def plain_loop(high, low, upper, lower, horizon):
    touched, after = [], []
    for t in range(len(high)):
        code, bars = 0, 0
        for j in range(t + 1, min(t + horizon + 1, len(high))):
            down, up = low[j] <= lower[t], high[j] >= upper[t]
            if down or up:
                code, bars = (2 if down and up else -1 if down else 1), j - t
                break
        touched.append(code)
        after.append(bars)
    return touched, after


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 900),
    horizon=st.sampled_from([1, 5, 63, 64, 65, 200, 511, 800]),
    width=st.floats(0.3, 60.0),
    gaps=st.booleans(),
)
def test_the_kernel_answers_as_the_plain_loop_over_short_and_long_horizons(seed, rows, horizon, width, gaps):
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, rows)))
    high, low = close * (1 + 0.01 * rng.random(rows)), close * (1 - 0.01 * rng.random(rows))
    upper, lower = close * (1 + 0.01 * width * rng.random(rows)), close * (1 - 0.01 * width * rng.random(rows))
    if gaps:
        upper[rng.random(rows) < 0.1] = np.inf
        lower[rng.random(rows) < 0.1] = np.nan
    touched, after = first_touch(high, low, upper, lower, horizon)
    expected = plain_loop(high, low, upper, lower, horizon)
    assert (touched.tolist(), after.tolist()) == expected


def test_a_touch_at_the_last_bar_of_a_long_horizon_counts_and_one_bar_later_does_not():
    high, low = np.full(600, 100.0), np.full(600, 100.0)
    high[500] = 110.0
    upper, lower = np.full(600, 105.0), np.full(600, 95.0)
    touched, after = first_touch(high, low, upper, lower, 300)
    assert (touched[200], after[200]) == (1, 300)
    assert (touched[199], after[199]) == (0, 0)


def test_when_time_runs_out_the_label_may_be_the_sign_of_the_move(make_bars):
    bars = make_bars(5, 80)
    zero, sign = (
        TripleBarrier(horizons_bars=(4,), timeout=t).compute(bars, DAY)["triple_barrier_4"].to_numpy()
        for t in ("zero", "sign")
    )
    moved = np.sign(bars["close"].to_numpy()[4:] - bars["open"].shift(-1).to_numpy()[:-4])
    ran_out = np.flatnonzero(zero[:-4] == 0.0)
    assert ran_out.size > 10
    np.testing.assert_array_equal(sign[ran_out], moved[ran_out])
    others = np.flatnonzero(zero != 0.0)
    np.testing.assert_array_equal(sign[others], zero[others])


# --- meta-labels ------------------------------------------------------------------------------------------------------


def slow_meta(bars, label, horizon):
    """One trade at a time, from the definition."""
    signal = label.primary.compute(bars)
    opened, high, low, close = (bars[n].to_list() for n in ("open", "high", "low", "close"))
    n, answers = bars.height, []
    for t in range(n):
        answers.append((math.nan, None))
        if math.isnan(signal[t]) or abs(signal[t]) <= label.primary_band or t < label.volatility_bars or t + 1 >= n:
            continue
        side = 1 if signal[t] > 0 else -1
        v = math.sqrt(
            math.fsum(math.log(close[i] / close[i - 1]) ** 2 for i in range(t - label.volatility_bars + 1, t + 1))
            / label.volatility_bars
        )
        entry = opened[t + 1]
        profit, loss = entry * (1 + side * label.profit_multiplier * v), entry * (1 - side * label.loss_multiplier * v)
        for i in range(t + 1, min(t + horizon, n - 1) + 1):
            lost = low[i] <= loss if side > 0 else high[i] >= loss
            won = high[i] >= profit if side > 0 else low[i] <= profit
            earned = -label.loss_multiplier * v if lost else label.profit_multiplier * v if won else None
            if earned is None and i == t + horizon:
                earned = side * (close[i] / entry - 1)
            if earned is not None:
                answers[t] = (float(earned > label.cost_bps / 1e4), bars["timestamp"][i] + DAY.delta)
                break
    return answers


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    horizon=st.integers(1, 20),
    profit=st.floats(0.2, 4.0),
    loss=st.floats(0.2, 4.0),
    band=st.sampled_from([0.0, 0.01]),
    cost=st.sampled_from([0.0, 50.0]),
)
def test_a_meta_label_equals_its_slow_definition(make_bars, seed, horizon, profit, loss, band, cost):
    bars = make_bars(seed, 120)
    label = MetaLabel(
        primary=SmaRatio(fast_bars=3, slow_bars=10), primary_band=band, horizons_bars=(horizon,), volatility_bars=5,
        profit_multiplier=profit, loss_multiplier=loss, cost_bps=cost,
    )  # fmt: skip
    table, expected = label.compute(bars, DAY), slow_meta(bars, label, horizon)
    np.testing.assert_array_equal(table[f"meta_{horizon}"].to_numpy(), [value for value, _ in expected])
    assert table[f"meta_{horizon}__t_end"].to_list() == [t_end for _, t_end in expected]


def test_in_a_steady_rise_the_rule_that_is_long_is_right_and_the_one_that_is_short_wrong(write_bars):
    bars = write_bars([[100.0 * 1.01**i, 100.2 * 1.01**i, 99.8 * 1.01**i, 100.1 * 1.01**i] for i in range(60)])
    follow, fade = SmaRatio(fast_bars=2, slow_bars=5), SmaRatio(fast_bars=2, slow_bars=5)
    long = MetaLabel(primary=follow, horizons_bars=(5,), volatility_bars=5).compute(bars, DAY)["meta_5"].to_numpy()
    assert set(long[10:50]) == {1.0}
    down = bars.with_columns(pl.col("open", "high", "low", "close").reverse())
    down = down.with_columns(
        high=pl.max_horizontal("open", "high", "close"), low=pl.min_horizontal("open", "low", "close")
    )
    short = MetaLabel(primary=fade, horizons_bars=(5,), volatility_bars=5)
    assert set(short.sides(down)[10:50]) == {-1.0}
    assert set(short.compute(down, DAY)["meta_5"].to_numpy()[10:50]) == {1.0}


def test_where_the_rule_takes_no_side_there_is_no_label(make_bars):
    bars = make_bars(3, 100)
    label = MetaLabel(
        primary=SmaRatio(fast_bars=3, slow_bars=10), primary_band=0.02, volatility_bars=5, horizons_bars=(5,)
    )
    idle = np.isnan(label.sides(bars))
    assert 20 < idle.sum() < 90
    table = label.compute(bars, DAY)
    assert np.isnan(table["meta_5"].to_numpy()[idle]).all()
    assert table["meta_5__t_end"].null_count() >= idle.sum()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(12, 70))
def test_meta_labels_and_timeouts_are_settled_at_their_t_end(make_bars, seed, cut):
    families = (
        MetaLabel(
            primary=SmaRatio(fast_bars=2, slow_bars=6), volatility_bars=4, horizons_bars=(5,), profit_multiplier=1.5
        ),
        TripleBarrier(horizons_bars=(7,), volatility_bars=4, timeout="sign"),
    )
    assert_settled(LabelsConfig(families=families), make_bars(seed, 70), DAY, [cut])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MetaLabel(primary_band=-0.1), "label meta_label: primary_band=-0.1 must be zero or more"),
        (lambda: MetaLabel(cost_bps=math.nan), "cost_bps=nan must be zero or more"),
        (lambda: MetaLabel(profit_multiplier=0.0), "profit_multiplier=0.0 must be a positive number"),
        (lambda: MetaLabel(horizons_bars=()), "must list one or more different horizons"),
    ],
)
def test_senseless_meta_labels_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
