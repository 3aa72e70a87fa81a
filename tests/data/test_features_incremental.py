"""New bars only: what is computed part by part has the bits of what is computed at once."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import FEATURES, FeatureConfig
from quantfleet.errors import ConfigError, DataError
from quantfleet_data.features import CrossSectionConfig, advance_features, compute_features, core_v2, feature_set
from quantfleet_data.features.compute import KERNELS
from quantfleet_data.features.returns import LogReturn
from quantfleet_data.features.trend import CloseEmaRatio, MacdHistogram
from quantfleet_data.features.volume import SessionVwapRatio

BUILT_IN = [
    n
    for n in FEATURES.names()
    if FEATURES.get(n).__module__.startswith("quantfleet_data.") and not issubclass(FEATURES.get(n), CrossSectionConfig)
]
EVERY = {f.column: f for f in (*(FEATURES.get(n)() for n in BUILT_IN), *feature_set("indicators").features)}


def bits(values):
    return np.where(np.isnan(values), np.nan, values).view(np.int64)


def with_extras(bars):
    """What the job joins for features that read more than bars: a positive walk of its own each."""
    extra = sorted({name for f in EVERY.values() for name in f.inputs} - set(bars.columns))
    steps = {name: np.random.default_rng(n).normal(0.0, 0.01, bars.height) for n, name in enumerate(extra)}
    return bars.with_columns(**{name: 50.0 * np.exp(np.cumsum(step)) for name, step in steps.items()})


def in_parts(feature, bars, sizes):
    """Advance through parts of these sizes with no more known bars than the contract asks for."""
    parts, state, end = [], None, 0
    for size in sizes:
        start, end = end, end + size
        known = min(start, feature.lookback_bars - 1)
        values, state = feature.advance(bars[start - known : end], size, state)
        assert values.shape == (size,)
        assert values.dtype == state.dtype == np.float64
        assert state.ndim == 1
        state = np.frombuffer(state.tobytes())  # it went through a store
        parts.append(values)
    return np.concatenate(parts)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    timeframe=st.sampled_from(["1d", "1h", "5m"]),
    still_share=st.sampled_from([0.0, 0.3, 1.0]),
    volume=st.sampled_from(["traded", "null", "patchy"]),
    data=st.data(),
)
def test_advancing_over_any_partition_gives_the_bits_of_one_computation(
    make_bars, name, seed, timeframe, still_share, volume, data
):
    feature = EVERY[name]
    sizes = data.draw(st.lists(st.one_of(st.just(1), st.integers(1, 300)), min_size=2, max_size=6), label="sizes")
    sizes = [*sizes, max(1, feature.lookback_bars + 20 - sum(sizes)), 1]
    bars = with_extras(
        make_bars(seed, sum(sizes), timeframe=timeframe, still_share=still_share, volume=volume, volatility=0.01)
    )
    np.testing.assert_array_equal(bits(in_parts(feature, bars, sizes)), bits(feature.compute(bars)))


@pytest.mark.parametrize("feature", [MacdHistogram(), SessionVwapRatio()], ids=lambda f: f.kind)
def test_a_run_may_stop_and_go_on_in_any_lane(make_bars, feature):
    bars = make_bars(1, 700, timeframe="5m")
    expected = bits(feature.compute(bars))
    for sizes in ([1, 2, 3, 4, 5, 6, 7, 8, 9, 655], [7, 1, 8, 684], [300, 3, 3, 394], [1] * 50 + [650], [597, 103]):
        np.testing.assert_array_equal(bits(in_parts(feature, bars, sizes)), expected)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    volume=st.sampled_from(["traded", "null", "patchy"]),
    sizes=st.lists(st.one_of(st.just(1), st.integers(1, 1100)), min_size=2, max_size=6),
)
def test_a_set_advanced_over_any_partition_is_the_set_computed_at_once(make_bars, seed, volume, sizes):
    features = feature_set("indicators")
    bars = make_bars(seed, sum(sizes), timeframe="1h", volume=volume)
    parts, states, end = [], None, 0
    for size in sizes:
        start, end = end, end + size
        known = min(start, features.lookback_bars - 1)
        part, states = advance_features(bars[start - known : end], features, size, states)
        states = {name: np.frombuffer(state.tobytes()) for name, state in states.items()}  # they went through a store
        parts.append(part)
    assert pl.concat(parts).equals(compute_features(bars, features))


def test_the_compiled_formulas_of_a_set_share_one_state_that_is_no_column(make_bars):
    _, states = advance_features(make_bars(3, 300), feature_set("indicators"), 300, None)
    calendar = feature_set("indicators").columns[60:]
    assert tuple(states) == (KERNELS, *calendar)


def test_a_state_of_other_formulas_of_the_same_size_is_refused(make_bars):
    bars = make_bars(5, 300)
    _, state = CloseEmaRatio(bars=9).advance(bars, 300, None)
    assert state.shape == CloseEmaRatio(bars=21).advance(bars, 300, None)[1].shape
    with pytest.raises(DataError, match="it is of other formulas"):
        CloseEmaRatio(bars=21).advance(bars, 1, state)


def test_states_of_another_set_are_refused(make_bars):
    bars = make_bars(3, 300)
    _, states = advance_features(bars, core_v2(), 300, None)
    with pytest.raises(DataError, match="the states are not those of feature set 'indicators'"):
        advance_features(bars, feature_set("indicators"), 1, states)


def test_arguments_that_contradict_each_other_are_refused(make_bars):
    bars = make_bars(4, 50)
    for feature in (LogReturn(), CloseEmaRatio()):
        for new_bars in (0, 51):
            with pytest.raises(DataError, match=f"cannot advance by new_bars={new_bars} with 50 bars"):
                feature.advance(bars, new_bars, None)
        with pytest.raises(DataError, match="has no state, yet 49 of 50 bars are not new"):
            feature.advance(bars, 1, None)


def test_a_state_of_another_feature_is_refused(make_bars):
    bars = make_bars(5, 50)
    _, state = MacdHistogram().advance(bars, 50, None)
    with pytest.raises(DataError, match="a state of shape"):
        CloseEmaRatio().advance(bars, 1, state)


def test_a_recursive_feature_that_forgot_to_override_advance_is_told_so(make_bars):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Running(FeatureConfig):
        recursive: ClassVar[bool] = True
        column = property(lambda self: "running")
        lookback_bars = property(lambda self: 1)
        inputs = property(lambda self: ("close",))
        source = property(lambda self: "a test")

        def compute(self, bars):
            return np.cumsum(bars["close"].to_numpy())

    with pytest.raises(
        ConfigError, match="feature 'running' is recursive but cannot be advanced: Running must override"
    ):
        Running().advance(make_bars(6, 5), 5, None)
