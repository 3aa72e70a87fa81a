"""Feature tables, sets and the recipe section."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from quantfleet.config import load_config
from quantfleet.contracts import FEATURES, FeatureConfig, FeatureSet
from quantfleet.errors import (
    ConfigError,
    DataError,
    EmptyTableError,
    LeakageError,
    PriceError,
    SchemaError,
    TimeError,
    UnknownPluginError,
)
from quantfleet_data.features import (
    FeaturesConfig,
    compute_features,
    compute_panel,
    core_v2,
    feature_set,
    feature_set_names,
    register_feature_set,
    sixty_indicators,
)
from quantfleet_data.features.bands import BollingerB
from quantfleet_data.features.kernels import Panel
from quantfleet_data.features.momentum import RelativeStrengthIndex
from quantfleet_data.features.trend import MacdHistogram, SmaRatio


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed(FeatureConfig):
    """Returns what it was given."""

    answer: object
    reads: tuple[str, ...] = ("close",)

    column = property(lambda self: "fixed")
    lookback_bars = property(lambda self: 1)
    inputs = property(lambda self: self.reads)
    source = property(lambda self: "a test")

    def compute(self, bars):
        return self.answer


def fixed(answer, reads=("close",)):
    return FeatureSet(name="fixed", version=1, features=(Fixed(answer=answer, reads=reads),))


def test_the_table_holds_symbol_time_and_the_features_in_their_order(make_bars):
    bars = make_bars(1, 250)
    table = compute_features(bars, core_v2())
    assert table.columns == ["symbol", "timestamp", *core_v2().columns]
    assert table.select("symbol", "timestamp").equals(bars.select("symbol", "timestamp"))
    assert set(table.drop("symbol", "timestamp").dtypes) == {pl.Float64}


def test_core_is_complete_after_two_hundred_bars(make_bars):
    table = compute_features(make_bars(2, 260), core_v2()).drop("symbol", "timestamp")
    assert core_v2().lookback_bars == 200
    assert np.isfinite(table.to_numpy()[199:]).all()
    assert not np.isfinite(table.to_numpy()[198]).all()


def test_fewer_bars_than_the_look_back_give_nan_not_an_error(make_bars):
    table = compute_features(make_bars(3, 1), core_v2())
    assert table.height == 1
    assert np.isnan(table["rsi_14"][0])


def test_a_missing_input_is_named_with_the_feature_and_the_nearest_column(make_bars):
    bars = make_bars(4, 30).rename({"volume": "volumes"})
    with pytest.raises(SchemaError, match=r"'volume_zscore_21' reads the bar column 'volume'.*Did you mean 'volumes'"):
        compute_features(bars, core_v2())


def test_a_feature_may_read_a_column_beyond_the_bars_contract(make_bars):
    bars = make_bars(5, 3).with_columns(funding=pl.lit(0.01))
    assert compute_features(bars, fixed(np.ones(3), reads=("funding",)))["fixed"].to_list() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("length", [0, 4, 6])
def test_a_feature_of_the_wrong_length_is_a_leak(make_bars, length):
    with pytest.raises(LeakageError, match=f"'fixed' returned {length} values for 5 bars"):
        compute_features(make_bars(6, 5), fixed(np.zeros(length)))


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_an_infinite_value_is_refused_by_name_and_time(make_bars, bad):
    with pytest.raises(DataError, match=r"'fixed' is infinite in 1 rows of AAA, first 2020-01-03"):
        compute_features(make_bars(7, 5), fixed(np.array([0.0, 0.0, bad, 0.0, 0.0])))


@pytest.mark.parametrize(
    "answer", [np.zeros(5, np.float32), np.zeros((5, 1)), [0.0] * 5], ids=["float32", "2d", "list"]
)
def test_anything_but_one_dimensional_float64_is_refused(make_bars, answer):
    with pytest.raises(SchemaError, match="'fixed' returned"):
        compute_features(make_bars(8, 5), fixed(answer))


def test_bars_that_break_their_contract_are_refused(make_bars):
    bars = make_bars(9, 30)
    broken = {
        PriceError: bars.with_columns(close=pl.when(pl.int_range(30) == 7).then(float("nan")).otherwise("close")),
        TimeError: bars.reverse(),
        EmptyTableError: bars.clear(),
    }
    for error, table in broken.items():
        with pytest.raises(error, match="the bars to compute features from"):
            compute_features(table, core_v2())
    two = pl.concat([bars, bars.with_columns(symbol=pl.lit("BBB"))])
    with pytest.raises(SchemaError, match="hold 2 symbols"):
        compute_features(two, core_v2())


def test_an_unknown_set_is_refused_with_the_nearest_name():
    with pytest.raises(
        ConfigError, match=r"no feature set named 'cores'. Did you mean 'core'\? Known sets: .*core, .*intraday"
    ):
        feature_set("cores")


def test_every_named_set_carries_its_name():
    names = feature_set_names()
    assert [feature_set(name).name for name in names] == list(names)
    assert {"core", "indicators", "intraday"} <= set(names)


def test_a_set_name_that_is_taken_is_refused():
    with pytest.raises(
        ConfigError, match=r"feature set 'core' is taken by quantfleet_data\.features\.sets\.core\.core_v2"
    ):
        register_feature_set("core")(lambda: core_v2())
    assert register_feature_set("core")(core_v2) is core_v2


def test_intraday_adds_the_hour_to_core():
    assert feature_set("intraday").columns == (*core_v2().columns, "hour_of_day_sin", "hour_of_day_cos")


@pytest.mark.parametrize(
    ("name", "version", "digest"),
    [("core", 2, "1b8314451ebff421"), ("indicators", 1, "154510e9dd23a312"), ("intraday", 2, "9735c33e4745bdc4")],
)
def test_the_digest_of_a_set_is_pinned_so_that_a_change_needs_a_new_version(name, version, digest):
    assert (feature_set(name).version, feature_set(name).digest) == (version, digest)


def test_the_indicators_are_sixty_and_the_calendar():
    columns = feature_set("indicators").columns
    assert len(columns) == 67
    assert columns[:60] == tuple(f.column for f in sixty_indicators())
    assert {c.rsplit("_", 1)[0] for c in columns[60:66]} == {"hour_of_day", "day_of_week", "month_of_year"}


def panel_frames(make_bars, sizes, **kwargs):
    return [make_bars(seed, size, symbol=f"S{seed}", **kwargs) for seed, size in enumerate(sizes)]


@pytest.mark.parametrize(
    "sizes",
    [
        [700, 3, 650],
        [640] * 8,
        [1, 15, 16, 17, 600, 601, 31, 32, 33],
        [577, 576, 575, 560, 561, 700, 1, 640, 16, 700, 700, 2, 640, 48, 47, 100, 99],
    ],
)
def test_a_panel_is_the_table_of_each_symbol_rounded_to_float32(make_bars, sizes):
    frames = panel_frames(make_bars, sizes, volume="patchy")
    features = feature_set("indicators")
    panel = compute_panel(frames, features)
    for symbol, bars in enumerate(frames):
        table = compute_features(bars, features).drop("symbol", "timestamp").to_numpy()
        np.testing.assert_array_equal(panel.of(symbol), table.astype(np.float32))


def test_a_panel_is_written_where_it_was_before_and_holds_nan_between_symbols(make_bars):
    frames = panel_frames(make_bars, [300, 250])
    features = feature_set("indicators")
    panel = compute_panel(frames, features)
    before = panel.values_FT.copy()
    panel.values_FT[:] = 7.0
    assert compute_panel(frames, features, panel) is panel
    np.testing.assert_array_equal(panel.values_FT, before)
    assert panel.starts == (0, 304)
    assert panel.values_FT.shape == (67, 560)
    assert np.isnan(panel.values_FT[:, 300:304]).all()
    assert np.isnan(panel.values_FT[:, 554:]).all()


def test_a_panel_is_not_written_where_it_does_not_fit(make_bars):
    features = feature_set("indicators")
    for wrong in (Panel.empty(67, [9]), Panel.empty(67, [10, 10]), Panel.empty(66, [10])):
        with pytest.raises(ValueError, match="a panel of 67 features and exactly these symbols' bars is needed"):
            compute_panel([make_bars(1, 10)], features, wrong)


def test_a_panel_refuses_what_a_table_refuses(make_bars):
    with pytest.raises(DataError, match=r"'fixed' is infinite in 1 rows of AAA, first 2020-01-02"):
        compute_panel([make_bars(7, 3)], fixed(np.array([0.0, np.inf, 0.0])))
    with pytest.raises(SchemaError, match="hold 2 symbols"):
        compute_panel([pl.concat([make_bars(1, 3), make_bars(1, 3, symbol="BBB")])], core_v2())


def test_extras_follow_the_set_under_a_name_and_digest_of_their_own():
    extended = FeaturesConfig(extra=(RelativeStrengthIndex(bars=7), SmaRatio(fast_bars=10, slow_bars=30))).resolve()
    assert extended.name == "core+2"
    assert extended.columns == (*core_v2().columns, "rsi_7", "sma_ratio_10_30")
    assert extended.digest != core_v2().digest
    assert FeaturesConfig().resolve() == core_v2()


def test_an_extra_that_the_set_already_holds_is_refused():
    with pytest.raises(ConfigError, match="computes rsi_14 twice"):
        FeaturesConfig(extra=(RelativeStrengthIndex(bars=14),))


@dataclass(frozen=True)
class Recipe:
    features: FeaturesConfig = dataclasses.field(default_factory=FeaturesConfig)


def test_a_recipe_names_the_set_and_the_extras(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("features:\n  sets: [intraday]\n  extra:\n    - {kind: rsi, bars: 7}\n    - cci\n")
    with pytest.raises(ConfigError, match="computes cci_20 twice"):
        load_config(Recipe, file=path, environ={})
    path.write_text("features:\n  sets: [intraday]\n  extra:\n    - {kind: rsi, bars: 7}\n    - simple_return\n")
    resolved = load_config(Recipe, file=path, environ={}).value.features.resolve()
    assert resolved.name == "intraday+2"
    assert resolved.columns[-2:] == ("rsi_7", "simple_return_1")


def test_a_recipe_with_an_unknown_set_or_feature_says_where(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("features: {sets: [cor]}\n")
    with pytest.raises(ConfigError, match=r"features: no feature set named 'cor'.*recipe.yaml:1"):
        load_config(Recipe, file=path, environ={})
    path.write_text("features:\n  extra:\n    - {kind: rsj}\n")
    with pytest.raises(UnknownPluginError, match=r"features.extra.0 .*recipe.yaml:3.*Did you mean 'rsi'"):
        load_config(Recipe, file=path, environ={})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RelativeStrengthIndex(bars=1), "feature rsi: bars=1 is too short; set bars >= 2"),
        (lambda: SmaRatio(fast_bars=200, slow_bars=50), "fast_bars=200 must be shorter than slow_bars=50"),
        (lambda: MacdHistogram(signal_bars=0), "signal_bars=0 is too short"),
        (lambda: BollingerB(width=0.0), "width=0.0 must be a positive number"),
        (lambda: BollingerB(width=float("nan")), "width=nan must be a positive number"),
    ],
)
def test_senseless_parameters_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_every_feature_says_what_it_is_where_it_comes_from_and_what_it_reads():
    for name in FEATURES.names():
        feature = FEATURES.get(name)()
        assert feature.source, name
        assert feature.inputs, name
        assert FEATURES.summary(name).endswith("."), name


def test_columns_are_named_by_kind_and_parameters():
    assert MacdHistogram().column == "macd_histogram_12_26_9"
    assert BollingerB(bars=20, width=2.5).column == "bollinger_b_20_2.5"
