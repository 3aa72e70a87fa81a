"""The promises of every feature: causal to the bit, dimensionless, defined from its look-back on."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import FEATURES, PRICE_COLUMNS, FeatureConfig, FeatureSet
from quantfleet.errors import LeakageError
from quantfleet_data.features import (
    CrossSectionConfig,
    assert_causal,
    compute_features,
    core_v2,
    feature_set,
    feature_set_names,
    spread_cuts,
)

ON_TIMEFRAMES = {f"multi_timeframe_{base}": base for base in ("1m", "5m", "1h", "1d")}
"""Sets whose look-back is counted in bars of their base."""
BUILT_IN = [
    n
    for n in FEATURES.names()
    if FEATURES.get(n).__module__.startswith("quantfleet_data.") and not issubclass(FEATURES.get(n), CrossSectionConfig)
]
"""Every kind that is computed from one symbol's bars; `test_features_cross_section` holds the others to theirs."""
EVERY = FeatureSet(
    name="every",
    version=1,
    features=tuple(
        {
            f.column: f
            for f in (
                *(FEATURES.get(n)() for n in BUILT_IN),
                *(f for name in feature_set_names() if name not in ON_TIMEFRAMES for f in feature_set(name).features),
            )
            if not isinstance(f, CrossSectionConfig)
        }.values()
    ),
)
LONGEST = EVERY.lookback_bars
every_feature = pytest.mark.parametrize("feature", EVERY.features, ids=EVERY.columns)

markets = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "rows": st.integers(LONGEST, LONGEST + 90),
        "timeframe": st.sampled_from(["1d", "1h", "5m"]),
        "first_price": st.floats(1e-9, 1e6),
        "volatility": st.floats(1e-4, 0.2),
        "still_share": st.sampled_from([0.0, 0.0, 0.3, 0.95, 1.0]),
        "volume": st.sampled_from(["traded", "null", "zero", "patchy"]),
    }
)


@pytest.fixture(scope="module")
def make_bars(make_bars):
    """Bars of one symbol, with what the job joins for features that read more: a positive walk of its own each."""

    def make(*arguments, **options):
        bars = make_bars(*arguments, **options)
        extra = [name for name in EVERY.inputs if name not in bars.columns]
        walks = {
            name: 50.0 * np.exp(np.cumsum(np.random.default_rng(number).normal(0.0, 0.01, bars.height)))
            for number, name in enumerate(extra)
        }
        return bars.with_columns(**walks)

    return make


def bits(values):
    values = np.where(np.isnan(values), np.nan, values)  # one NaN for all
    return values.view(np.int64)


def test_the_sets_hold_only_features_of_the_registry_and_the_registry_is_covered():
    assert {f.kind for f in EVERY.features} == set(BUILT_IN)
    assert len(BUILT_IN) >= 30
    assert len(core_v2().features) == 35


@settings(max_examples=20, deadline=None)
@given(market=markets, data=st.data())
def test_every_feature_keeps_its_bits_when_the_future_is_cut_off(make_bars, market, data):
    bars = make_bars(**market)
    cuts = data.draw(st.lists(st.integers(1, bars.height), min_size=1, max_size=4), label="cuts")
    assert_causal(EVERY, bars, cuts)


@settings(max_examples=10, deadline=None)
@given(market=markets, replaced=st.integers(1, 80))
def test_every_feature_keeps_its_bits_when_the_future_is_another(make_bars, market, replaced):
    bars = make_bars(**market)
    other = make_bars(**{**market, "seed": market["seed"] + 1})
    kept = bars.height - replaced
    mixed = pl.concat([bars.head(kept), other.tail(replaced)])
    before, after = compute_features(bars, EVERY).head(kept), compute_features(mixed, EVERY).head(kept)
    for name in EVERY.columns:
        np.testing.assert_array_equal(bits(before[name].to_numpy()), bits(after[name].to_numpy()), err_msg=name)


@settings(max_examples=25, deadline=None)
@given(market=markets)
def test_every_feature_is_nan_before_its_look_back_and_finite_from_there_on(make_bars, market):
    bars = make_bars(**market)
    table = compute_features(bars, EVERY)
    for feature in EVERY.features:
        values = table[feature.column].to_numpy()
        assert np.isnan(values[: feature.lookback_bars - 1]).all(), feature.column
        assert np.isfinite(values[feature.lookback_bars - 1 :]).all(), feature.column


def factor_of(feature, price, volume):
    return {"invariant": 1.0, "price": price, "volume": volume}[feature.scaling]


def in_another_unit(bars, price, volume):
    return bars.with_columns(pl.col(PRICE_COLUMNS) * price, pl.col("volume") * volume)


SCALED = FeatureSet(name="scaled", version=1, features=tuple(f for f in EVERY.features if f.scaling != "none"))


@settings(max_examples=15, deadline=None)
@given(market=markets, price=st.integers(-40, 40), volume=st.integers(-40, 40))
def test_scale_behaviour_is_as_declared_to_the_bit_for_powers_of_two(make_bars, market, price, volume):
    bars = make_bars(**market)
    before = compute_features(bars, SCALED)
    after = compute_features(in_another_unit(bars, 2.0**price, 2.0**volume), SCALED)
    for feature in SCALED.features:
        name, factor = feature.column, factor_of(feature, 2.0**price, 2.0**volume)
        np.testing.assert_array_equal(
            bits(before[name].to_numpy() * factor), bits(after[name].to_numpy()), err_msg=name
        )


@pytest.mark.parametrize(("price", "volume"), [(0.37, 1.0), (1000.0, 1e-7), (1e-7, 1000.0), (1.0, 0.37)])
def test_scale_behaviour_is_as_declared_for_any_factor(make_bars, price, volume):
    bars = make_bars(3, LONGEST + 200)
    before = compute_features(bars, SCALED)
    after = compute_features(in_another_unit(bars, price, volume), SCALED)
    for feature in SCALED.features:
        name, factor = feature.column, factor_of(feature, price, volume)
        np.testing.assert_allclose(
            after[name].to_numpy(), before[name].to_numpy() * factor, rtol=1e-8, atol=1e-9 * factor, err_msg=name
        )


@pytest.mark.parametrize("name", ON_TIMEFRAMES)
def test_features_of_longer_bars_keep_their_bits_without_the_future_and_in_another_unit_and_their_look_back(
    make_bars, name
):
    features = feature_set(name)
    bars = make_bars(7, features.lookback_bars + 150, timeframe=ON_TIMEFRAMES[name])
    assert_causal(
        features, bars, (features.lookback_bars // 2, features.lookback_bars + 1, features.lookback_bars + 77)
    )
    before, after = (compute_features(b, features) for b in (bars, in_another_unit(bars, 2.0**-7, 2.0**9)))
    for feature in features.features:
        values = before[feature.column].to_numpy()
        assert feature.scaling == "invariant"
        np.testing.assert_array_equal(bits(values), bits(after[feature.column].to_numpy()), err_msg=feature.column)
        assert np.isnan(values[: feature.lookback_bars - 1]).all(), feature.column
        assert np.isfinite(values[feature.lookback_bars - 1 :]).all(), feature.column


def test_every_column_of_the_named_sets_is_tested_here_or_compares_symbols():
    tested = {*EVERY.columns, *(column for name in ON_TIMEFRAMES for column in feature_set(name).columns)}
    left = {f for name in feature_set_names() for f in feature_set(name).features if f.column not in tested}
    assert all(isinstance(f, CrossSectionConfig) for f in left)
    assert len(tested | {f.column for f in left}) >= 413


@every_feature
def test_a_feature_forgets_what_lies_before_its_look_back(make_bars, feature):
    """To the bit where it is a function of its window; to a hundredth of its spread where it is recursive."""
    for seed in range(5):
        bars = make_bars(seed, LONGEST + 300)
        whole = feature.compute(bars)
        last = feature.compute(bars.tail(feature.lookback_bars))[-1]
        if feature.recursive:
            assert abs(last - whole[-1]) < 0.01 * np.nanstd(whole)
        else:
            assert bits(np.array([last])) == bits(whole[-1:])


@pytest.mark.parametrize("feature", [f for f in EVERY.features if not f.recursive], ids=lambda f: f.column)
def test_a_nan_price_touches_only_the_windows_that_hold_it(make_bars, feature):
    bars = make_bars(4, LONGEST + 120)
    row = LONGEST
    broken = bars.with_columns(
        pl.when(pl.int_range(pl.len()) == row).then(float("nan")).otherwise(pl.col(n)).alias(n) for n in PRICE_COLUMNS
    )
    clean, dirty = feature.compute(bars), feature.compute(broken)
    after = row + feature.lookback_bars
    np.testing.assert_array_equal(bits(dirty[:row]), bits(clean[:row]))
    np.testing.assert_array_equal(bits(dirty[after:]), bits(clean[after:]))


def of_one_symbol(name):
    return not any(isinstance(f, CrossSectionConfig) for f in feature_set(name).features)


@pytest.mark.parametrize("name", [*filter(of_one_symbol, feature_set_names())])
def test_named_sets_are_causal_on_real_bars(shared_data, name):
    path = shared_data / "binance_spot_usdt_1h_2020-12_2021-07.parquet"
    coco = pl.read_parquet(path).filter(pl.col("symbol") == "COCOS/USDT").select("symbol", pl.exclude("symbol"))
    if name.endswith("_1d"):
        coco = pl.read_parquet(shared_data / "coinbase_btcusd_1d_2014_2019.parquet")
    bars = coco.with_columns(index_close=pl.col("close").sqrt())
    assert_causal(feature_set(name), bars, spread_cuts(bars.height, 6))


def planted(column, function):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Planted(FeatureConfig):
        column = property(lambda self: column)
        lookback_bars = property(lambda self: 1)
        inputs = property(lambda self: ("close",))
        source = property(lambda self: "a test")

        def compute(self, bars):
            return np.asarray(function(bars["close"].to_numpy()), dtype=np.float64)

    return Planted()


FORBIDDEN = {
    "tomorrow": lambda close: np.append(close[1:] / close[:-1], np.nan),
    "far_ahead": lambda close: np.append(close[50:], [np.nan] * 50) if close.size > 50 else np.full(close.size, np.nan),
    "centred": lambda close: np.convolve(np.pad(close, 1, mode="edge"), np.ones(3) / 3, mode="valid"),
    "standardised": lambda close: (close - close.mean()) / (close.std() + 1.0),
    "backfilled": lambda close: np.where(np.arange(close.size) < 5, close[min(5, close.size - 1)], close),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_feature_that_looks_ahead_is_refused_by_name_and_time(make_bars, name):
    bars = make_bars(5, 120)
    features = FeatureSet(name="bad", version=1, features=(*core_v2().features, planted(name, FORBIDDEN[name])))
    with pytest.raises(LeakageError, match=f"feature '{name}' sees the future: at 2020-") as caught:
        assert_causal(features, bars, spread_cuts(bars.height, 8))
    assert caught.value.fields["feature"] == name


def test_the_first_time_that_changed_is_named(make_bars):
    features = FeatureSet(name="bad", version=1, features=(planted("tomorrow", FORBIDDEN["tomorrow"]),))
    with pytest.raises(LeakageError) as caught:
        assert_causal(features, make_bars(6, 60), [31])
    assert caught.value.fields == {"feature": "tomorrow", "time": "2020-01-31T00:00:00+00:00", "rows": 1}


def test_a_last_bit_that_changes_is_noticed(make_bars):
    def trembling(close):
        return np.nextafter(close, np.inf) if close.size < 60 else close

    features = FeatureSet(name="bad", version=1, features=(planted("trembling", trembling),))
    with pytest.raises(LeakageError, match="trembling"):
        assert_causal(features, make_bars(7, 60), [40])


def test_cuts_outside_the_bars_are_refused(make_bars):
    for cut in (0, 61):
        with pytest.raises(ValueError, match=f"cut={cut}"):
            assert_causal(core_v2(), make_bars(8, 60), [cut])


def test_cuts_spread_from_the_first_bar_to_the_last_but_one():
    assert spread_cuts(101, 4) == (1, 34, 67, 100)
    assert spread_cuts(2, 9) == (1,)
    with pytest.raises(ValueError, match="cannot spread 3 cuts over 1 rows"):
        spread_cuts(1, 3)
