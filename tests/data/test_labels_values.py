"""Label values against loops, and t_end against the bars that were read."""

import datetime as dt
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError
from quantfleet_data.labels import Direction, ForwardReturn, RealisedVolatility, TripleBarrier

DAY = Timeframe("1d")
ROWS = 60


@pytest.fixture(scope="module")
def bars(make_bars):
    return make_bars(21, ROWS)


def closes_at(bars, row, timeframe=DAY):
    return bars["timestamp"][row] + timeframe.delta


@pytest.mark.parametrize("horizon", [1, 5, 21])
def test_a_forward_return_runs_from_the_next_open_to_the_open_after_the_horizon(bars, horizon):
    table = ForwardReturn(horizons_bars=(horizon,)).compute(bars, DAY)
    for t in range(ROWS):
        value, t_end = table.row(t)
        if t + 1 + horizon < ROWS:
            assert value == pytest.approx(bars["open"][t + 1 + horizon] / bars["open"][t + 1] - 1, rel=1e-12)
            assert t_end == closes_at(bars, t + 1 + horizon)
        else:
            assert math.isnan(value)
            assert t_end is None


def test_a_forward_return_from_the_close_reads_one_bar_less(bars):
    label = ForwardReturn(horizons_bars=(5,), entry="close")
    table = label.compute(bars, DAY)
    assert label.horizon_bars == 5
    assert ForwardReturn(horizons_bars=(5,)).horizon_bars == 6
    for t in range(ROWS):
        value, t_end = table.row(t)
        if t + 5 < ROWS:
            assert value == pytest.approx(bars["close"][t + 5] / bars["close"][t] - 1, rel=1e-12)
            assert t_end == closes_at(bars, t + 5)
        else:
            assert math.isnan(value)
            assert t_end is None


def test_direction_is_up_only_beyond_the_dead_band(write_bars):
    """Opens 100, 100, 100.10, 100.10, 99: next-open returns of one bar are +10 bp, 0, -1.1 %."""
    bars = write_bars([[100.0], [100.0], [100.1], [100.1], [99.0]])
    assert Direction(horizons_bars=(1,)).compute(bars, DAY)["direction_1"].to_list()[:3] == [1.0, 0.0, 0.0]
    narrow, wide = (Direction(horizons_bars=(1,), dead_band_bps=b).compute(bars, DAY) for b in (9.0, 11.0))
    assert narrow["direction_1"][0] == 1.0
    assert wide["direction_1"][0] == 0.0
    assert np.isnan(narrow["direction_1"].to_numpy()[3:]).all()


def test_direction_and_return_are_known_together_and_agree(bars):
    returns, directions = ForwardReturn().compute(bars, DAY), Direction().compute(bars, DAY)
    for h in (1, 5, 21):
        known = returns.filter(pl.col(f"return_{h}").is_not_nan()).height
        up = returns[f"return_{h}"].to_numpy()[:known] > 0
        assert directions[f"direction_{h}"].to_list()[:known] == up.astype(float).tolist()
        assert directions[f"direction_{h}__t_end"].to_list() == returns[f"return_{h}__t_end"].to_list()


@pytest.mark.parametrize("horizon", [1, 5, 21])
def test_realised_volatility_reads_the_returns_of_the_coming_bars(bars, horizon):
    table = RealisedVolatility(horizons_bars=(horizon,)).compute(bars, DAY)
    close = bars["close"].to_list()
    for t in range(ROWS):
        value, t_end = table.row(t)
        if t + horizon < ROWS:
            squares = [math.log(close[i] / close[i - 1]) ** 2 for i in range(t + 1, t + horizon + 1)]
            assert value == pytest.approx(math.sqrt(sum(squares) / horizon), rel=1e-10)
            assert t_end == closes_at(bars, t + horizon)
        else:
            assert math.isnan(value)
            assert t_end is None


def test_t_end_is_the_time_of_the_bar_that_was_read_not_a_count_of_days(make_bars):
    """A halt of ten days between bars 3 and 4: the bar two ahead of bar 2 lies beyond it."""
    bars = make_bars(22, 10)
    late = pl.when(pl.int_range(pl.len()) >= 4).then(pl.col("timestamp") + dt.timedelta(days=10)).otherwise("timestamp")
    table = RealisedVolatility(horizons_bars=(2,)).compute(bars.with_columns(timestamp=late), DAY)
    assert table["volatility_2__t_end"][1] == dt.datetime(2020, 1, 5, tzinfo=dt.UTC)
    assert table["volatility_2__t_end"][2] == dt.datetime(2020, 1, 16, tzinfo=dt.UTC)


def slow_triple_barrier(bars, label, horizon):
    """The definition, one row and one bar at a time."""
    opened, high, low, close = (bars[n].to_list() for n in ("open", "high", "low", "close"))
    n, answers = bars.height, []
    for t in range(n):
        answers.append((math.nan, None))
        if t < label.volatility_bars or t + 1 >= n:
            continue
        changes = [math.log(close[i] / close[i - 1]) for i in range(t - label.volatility_bars + 1, t + 1)]
        volatility = math.sqrt(math.fsum(c * c for c in changes) / label.volatility_bars)
        upper = opened[t + 1] * (1.0 + label.profit_multiplier * volatility)
        lower = opened[t + 1] * (1.0 - label.loss_multiplier * volatility)
        for i in range(t + 1, t + horizon + 1):
            if i >= n:
                break
            if volatility > 0 and low[i] <= lower:
                answers[t] = (-1.0, closes_at(bars, i))
                break
            if volatility > 0 and high[i] >= upper:
                answers[t] = (1.0, closes_at(bars, i))
                break
            if i == t + horizon:
                answers[t] = (0.0, closes_at(bars, i))
    return answers


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 120),
    horizon=st.integers(1, 25),
    window=st.integers(2, 12),
    profit=st.floats(0.1, 6.0),
    loss=st.floats(0.1, 6.0),
    still_share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    volatility=st.floats(1e-3, 0.3),
)
def test_the_triple_barrier_equals_its_slow_definition(
    make_bars, seed, rows, horizon, window, profit, loss, still_share, volatility
):
    bars = make_bars(seed, rows, still_share=still_share, volatility=volatility)
    label = TripleBarrier(
        horizons_bars=(horizon,), profit_multiplier=profit, loss_multiplier=loss, volatility_bars=window
    )
    table = label.compute(bars, DAY)
    expected = slow_triple_barrier(bars, label, horizon)
    np.testing.assert_array_equal(table[f"triple_barrier_{horizon}"].to_numpy(), [value for value, _ in expected])
    assert table[f"triple_barrier_{horizon}__t_end"].to_list() == [t_end for _, t_end in expected]


def barrier_case(write_bars, *after):
    """Two bars of +-1 % make v = 1 %; the decision is taken at bar 2, and `after` follows. Barriers at 99 and 101."""
    past = [[100.0], [100.0 * math.exp(0.01)], [100.0]]
    bars = write_bars([*past, *after])
    label = TripleBarrier(horizons_bars=(3,), profit_multiplier=1.0, loss_multiplier=1.0, volatility_bars=2)
    value, t_end = label.compute(bars, DAY).row(2)
    return value, None if t_end is None else (t_end - bars["timestamp"][2]).days - 1


CALM = [100.0, 100.5, 99.5, 100.0]


def test_the_profit_barrier_touched_first_is_a_win_known_at_that_bars_close(write_bars):
    assert barrier_case(write_bars, CALM, [100.0, 101.1, 99.5, 100.0], [100.0, 100.0, 90.0, 90.0]) == (1.0, 2)


def test_the_loss_barrier_touched_first_is_a_loss(write_bars):
    assert barrier_case(write_bars, [100.0, 100.5, 98.9, 99.5], [99.5, 110.0, 99.5, 110.0], CALM) == (-1.0, 1)


def test_a_bar_that_touches_both_barriers_counts_as_a_loss(write_bars):
    assert barrier_case(write_bars, CALM, [100.0, 102.0, 98.0, 101.0], CALM) == (-1.0, 2)


def test_neither_barrier_within_the_horizon_is_zero_known_at_its_end(write_bars):
    assert barrier_case(write_bars, CALM, CALM, CALM, [100.0, 120.0, 100.0, 120.0]) == (0.0, 3)


def test_without_a_touch_and_without_the_bars_to_wait_for_it_is_unknown(write_bars):
    value, days = barrier_case(write_bars, CALM, CALM)
    assert math.isnan(value)
    assert days is None


def test_barriers_stand_around_the_next_open_not_around_the_close(write_bars):
    """The market opens 5 % higher and stays there: nothing was won after entry."""
    high_open = [105.0, 105.5, 104.5, 105.0]
    assert barrier_case(write_bars, high_open, high_open, high_open) == (0.0, 3)


def test_a_market_that_stands_still_has_no_barriers(write_bars):
    bars = write_bars([[50.0]] * 10)
    table = TripleBarrier(horizons_bars=(3,), volatility_bars=2).compute(bars, DAY)
    np.testing.assert_array_equal(
        table["triple_barrier_3"].to_numpy(), [np.nan, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0, np.nan, np.nan, np.nan]
    )


def test_the_default_barriers_make_three_classes_of_the_sp500(shared_data):
    path = shared_data / "arch_us_indices_sp500_nasdaq_1d_1999_2018.parquet"
    bars = pl.read_parquet(path).filter(pl.col("symbol") == "^GSPC")
    values = TripleBarrier().compute(bars, DAY)["triple_barrier_21"].to_numpy()
    for outcome in (-1.0, 0.0, 1.0):
        assert 0.2 < np.mean(values == outcome) < 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ForwardReturn(horizons_bars=()), r"label forward_return: horizons_bars=\[\] must list"),
        (lambda: Direction(horizons_bars=(5, 5)), r"horizons_bars=\[5, 5\] must list one or more different"),
        (lambda: RealisedVolatility(horizons_bars=(0,)), "at least 1 bar"),
        (lambda: Direction(dead_band_bps=-1.0), "dead_band_bps=-1.0 must be zero or more"),
        (lambda: TripleBarrier(loss_multiplier=0.0), "loss_multiplier=0.0 must be a positive number"),
        (lambda: TripleBarrier(volatility_bars=1), "volatility_bars=1 must be at least 2"),
    ],
)
def test_senseless_parameters_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
