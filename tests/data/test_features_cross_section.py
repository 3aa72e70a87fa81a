"""Cross-sectional rank and z-score: a symbol against those that have a bar at the same time."""

import datetime as dt
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.config import load_config
from quantfleet.contracts import FeatureSet
from quantfleet.errors import ConfigError, SchemaError
from quantfleet_data.features import FeaturesConfig, compute_features
from quantfleet_data.features.cross_section import CrossRank, CrossSectionConfig, CrossZScore
from quantfleet_data.features.momentum import RelativeStrengthIndex
from quantfleet_data.features.multi_timeframe import OnTimeframe

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    features: FeaturesConfig = field(default_factory=FeaturesConfig)


def table(*rows):
    """Rows of day, symbol, value."""
    return pl.DataFrame(
        {
            "timestamp": pl.Series([START + dt.timedelta(days=d) for d, _, _ in rows], dtype=pl.Datetime("us", "UTC")),
            "symbol": [s for _, s, _ in rows],
            "value": pl.Series([v for _, _, v in rows], dtype=pl.Float64),
        }
    )


def one_day(*values):
    return table(*((0, f"S{i}", v) for i, v in enumerate(values)))


def random_table(seed, days=12, symbols=9):
    rng = np.random.default_rng(seed)
    rows = [(d, f"S{s}", round(rng.normal(), 1)) for d in range(days) for s in range(symbols) if rng.random() < 0.8]
    rows = [(d, s, v if rng.random() < 0.9 else NAN) for d, s, v in rows]
    return table(*rows)


def test_the_rank_runs_from_zero_to_one_and_ties_share_their_average():
    ranked = CrossRank(min_symbols=2).across(one_day(30.0, 10.0, 20.0, 20.0, 50.0))
    assert ranked["value"].to_list() == [0.75, 0.0, 0.375, 0.375, 1.0]


def test_the_z_score_is_in_population_deviations_and_zero_when_all_are_equal():
    values = [1.0, 2.0, 4.0, 9.0, 16.0]
    scored = CrossZScore().across(one_day(*values))["value"].to_numpy()
    np.testing.assert_allclose(scored, (values - np.mean(values)) / np.std(values), rtol=1e-12)
    assert CrossZScore().across(one_day(*[0.1] * 7))["value"].to_list() == [0.0] * 7


def test_only_symbols_with_a_value_take_part_and_too_few_give_nan():
    ranked = CrossRank(min_symbols=3).across(one_day(3.0, NAN, 1.0, None, 2.0))["value"].to_list()
    np.testing.assert_array_equal(ranked, [1.0, NAN, 0.0, NAN, 0.5])
    few = CrossRank(min_symbols=4).across(one_day(3.0, NAN, 1.0, None, 2.0))["value"]
    assert few.is_nan().all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), order=st.randoms(use_true_random=False))
@pytest.mark.parametrize("feature", [CrossRank(min_symbols=2), CrossZScore(min_symbols=2)], ids=lambda f: f.kind)
def test_equals_polars_window_functions_in_any_row_order(feature, seed, order):
    values = random_table(seed)
    shuffled = values[order.sample(range(values.height), values.height)] if values.height else values
    mine = feature.across(shuffled)
    assert mine.select("timestamp", "symbol").equals(shuffled.select("timestamp", "symbol"))
    value, n = pl.col("value").fill_nan(None), pl.col("value").fill_nan(None).count()
    expression = {
        "cross_rank": (value.rank("average") - 1) / (n - 1),
        "cross_zscore": pl.when(value.std(ddof=0) == 0).then(0.0).otherwise((value - value.mean()) / value.std(ddof=0)),
    }[feature.kind]
    peer = shuffled.with_columns(value=pl.when(value.is_not_null() & (n >= 2)).then(expression).over("timestamp"))
    np.testing.assert_allclose(mine["value"].to_numpy(), peer["value"].fill_null(NAN).to_numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("feature", [CrossRank(min_symbols=2), CrossZScore(min_symbols=2)], ids=lambda f: f.kind)
def test_a_time_is_a_function_of_its_own_rows_to_the_bit(feature):
    values = random_table(5)
    whole = feature.across(values)
    for cut in values["timestamp"].unique():
        part = feature.across(values.filter(pl.col("timestamp") <= cut))
        assert part["value"].to_numpy().tobytes() == whole.head(part.height)["value"].to_numpy().tobytes()
        alone = feature.across(values.filter(pl.col("timestamp") == cut).reverse()).reverse()
        same = whole.filter(pl.col("timestamp") == cut)
        assert alone["value"].to_numpy().tobytes() == same["value"].to_numpy().tobytes()


def test_no_values_at_all_are_no_error():
    assert CrossRank().across(table()).height == 0


def test_one_symbol_has_no_cross_section(make_bars):
    features = FeatureSet(name="crossed", version=1, features=(CrossRank(of=RelativeStrengthIndex(bars=14)),))
    assert features.columns == ("cross_rank_rsi_14",)
    assert features.inputs == ("close",)
    with pytest.raises(ConfigError, match="'cross_rank_rsi_14' compares symbols, so it cannot be computed"):
        compute_features(make_bars(1, 300), features)
    with pytest.raises(ConfigError, match="compares symbols"):
        CrossZScore().advance(make_bars(1, 30), 30, None)


def test_what_is_compared_may_be_on_another_timeframe_but_not_a_comparison():
    longer = CrossZScore(of=OnTimeframe(timeframe="1d", base="1h"))
    assert longer.column == "cross_zscore_log_return_1_on_1d"
    assert isinstance(longer, CrossSectionConfig)
    with pytest.raises(ConfigError, match="compares symbols already"):
        CrossRank(of=CrossZScore())
    with pytest.raises(ConfigError, match="min_symbols=1 compares nothing"):
        CrossRank(min_symbols=1)


def test_doubled_pairs_and_missing_columns_are_refused():
    with pytest.raises(SchemaError, match="hold S0 twice at 2024-01-01"):
        CrossRank().across(table((0, "S0", 1.0), (0, "S0", 2.0)))
    with pytest.raises(SchemaError, match="no column 'value'"):
        CrossRank().across(table((0, "S0", 1.0)).rename({"value": "values"}))


def test_a_recipe_nests_what_is_compared_and_the_digest_sees_it(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "features:\n"
        "  sets: [core]\n"
        "  extra:\n"
        "    - {kind: cross_rank, of: {kind: rsi, bars: 7}, min_symbols: 3}\n"
        "    - kind: cross_zscore\n"
        "      of: {kind: on_timeframe, of: {kind: rsi, bars: 7}, timeframe: 1M, base: 1d}\n"
    )
    features = load_config(Recipe, file=path, environ={}).value.features
    assert features.extra == (
        CrossRank(of=RelativeStrengthIndex(bars=7), min_symbols=3),
        CrossZScore(of=OnTimeframe(of=RelativeStrengthIndex(bars=7), timeframe="1M", base="1d")),
    )
    assert features.resolve().columns[-2:] == ("cross_rank_rsi_7", "cross_zscore_rsi_7_on_1M")
    other = FeaturesConfig(sets=("core",), extra=(CrossRank(of=RelativeStrengthIndex(bars=8), min_symbols=3),))
    same = FeaturesConfig(sets=("core",), extra=features.extra[:1])
    assert same.resolve().digest != other.resolve().digest
