"""The compiled kernels: nodes against numpy, plans that share, and every indicator against TA-Lib."""

import functools
import importlib.util
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import binding

from quantfleet.contracts import FeatureSet
from quantfleet.errors import ConfigError
from quantfleet_data.features import (
    KernelFeature,
    compute_features,
    feature_set,
    feature_set_names,
    sixty_indicators,
)
from quantfleet_data.features.bands import AtrRatio, BollingerB
from quantfleet_data.features.directional import AverageDirectionalIndex
from quantfleet_data.features.kernels import (
    Graph,
    Panel,
    PanelRunner,
    Program,
    Runner,
    empty_rows,
    lane_code_of,
    plan,
    program_of,
)
from quantfleet_data.features.kernels.codes import LARGE_BYTES
from quantfleet_data.features.kernels.lane_code import compile_lanes
from quantfleet_data.features.trend import CloseEmaRatio, CloseSmaRatio

SIXTY = Path(__file__).parents[2] / "bench" / "sixty.py"


def program(build):
    """The node that `build` makes, compiled."""
    g = Graph()
    node = build(g)
    return plan([(node, node.first)])


def run(compiled, columns, *, pieces=()):
    """A program of one node over columns, cut before the bars `pieces`; after odd ones another runner goes on."""
    runner = Runner(compiled if isinstance(compiled, Program) else program(compiled))
    size = next(iter(columns.values())).size
    out = np.empty((1, size))
    for start, stop in zip((0, *pieces), (*pieces, size), strict=True):
        if start % 2:
            state, runner = runner.state(), Runner(runner.program)
            runner.restore(state)
        part = {name: np.ascontiguousarray(x[start:stop]) for name, x in columns.items()}
        runner.feed(part, out, start)
    return out[0]


def bits(values):
    return np.where(np.isnan(values), np.nan, values).view(np.int64)


WINDOWS = {
    "total": (lambda g, x, n: g.total(x, n), np.sum),
    "mean": (lambda g, x, n: g.mean(x, n), np.mean),
    "deviation": (lambda g, x, n: g.deviation(x, n), np.std),
    "mean_deviation": (lambda g, x, n: g.mean_deviation(x, n), lambda w: np.sum(np.abs(w - np.mean(w)))),
    "highest": (lambda g, x, n: g.highest(x, n), np.max),
    "lowest": (lambda g, x, n: g.lowest(x, n), np.min),
    "age_of_highest": (lambda g, x, n: g.age_of_highest(x, n), lambda w: np.argmax(w[::-1])),
    "age_of_lowest": (lambda g, x, n: g.age_of_lowest(x, n), lambda w: np.argmin(w[::-1])),
}


@functools.cache
def window(name, n):
    return program(lambda g: WINDOWS[name][0](g, g.input("close"), n))


every_window = pytest.mark.parametrize("name", WINDOWS)


@every_window
@pytest.mark.parametrize("n", [2, 3, 7, 20, 31, 64, 200])
def test_a_window_equals_numpy_on_every_window(name, n):
    _, reference = WINDOWS[name]
    x = np.round(np.random.default_rng(n).normal(100.0, 5.0, 260), 1)  # rounded: extremes come in ties
    ours = run(window(name, n), {"close": x})
    expected = [np.nan] * (n - 1) + [reference(x[i - n + 1 : i + 1]) for i in range(n - 1, x.size)]
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-10)


@every_window
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([2, 3, 7, 20, 31, 64, 200]),
    skipped=st.integers(0, 400),
    cuts=st.lists(st.integers(1, 699), max_size=5, unique=True),
)
def test_a_window_has_the_same_bits_wherever_history_and_parts_begin(name, seed, n, skipped, cuts):
    x = np.random.default_rng(seed).lognormal(0.0, 3.0, 700)
    whole = run(window(name, n), {"close": x})
    in_parts = run(window(name, n), {"close": x}, pieces=sorted(cuts))
    np.testing.assert_array_equal(bits(in_parts), bits(whole))
    later = run(window(name, n), {"close": np.ascontiguousarray(x[skipped:])})
    np.testing.assert_array_equal(bits(later[n - 1 :]), bits(whole[skipped + n - 1 :]))


@every_window
def test_a_nan_touches_only_the_windows_that_hold_it(name):
    x = np.random.default_rng(2).normal(0.0, 1.0, 60)
    clean = run(window(name, 7), {"close": x})
    x[20] = np.nan
    dirty = run(window(name, 7), {"close": x})
    np.testing.assert_array_equal(bits(np.delete(dirty, range(20, 27))), bits(np.delete(clean, range(20, 27))))
    if not name.startswith("age"):
        assert np.isnan(dirty[20:27]).all()


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-9, 123456.789])
def test_equal_values_have_themselves_as_mean_and_deviate_by_exactly_zero(value):
    x = np.full(90, value)
    for n in (3, 7, 20, 21, 63):
        assert (run(lambda g, n=n: g.mean(g.input("close"), n), {"close": x})[n - 1 :] == value).all()
        for name in ("deviation", "mean_deviation"):
            build, _ = WINDOWS[name]
            assert (run(lambda g, b=build, n=n: b(g, g.input("close"), n), {"close": x})[n - 1 :] == 0.0).all()


def test_averages_follow_their_recursion_from_the_mean_of_their_first_bars():
    x = np.random.default_rng(3).normal(50.0, 1.0, 400)
    for make, alpha in (("ema", 2 / 11), ("wilder", 1 / 10)):
        value = np.mean(x[:10])
        expected = [np.nan] * 9 + [value]
        for price in x[10:]:
            value += alpha * (price - value)
            expected.append(value)
        ours = run(lambda g, make=make: getattr(g, make)(g.input("close"), 10), {"close": x})
        np.testing.assert_allclose(ours, expected, rtol=1e-13)


def test_the_sum_since_midnight_begins_anew_every_day():
    x, day = np.arange(1.0, 11.0), np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3.0])
    expected = [1, 3, 6, 4, 9, 6, 7, 15, 24, 34]
    columns = {"volume": x, "day": day}
    assert run(lambda g: g.since_midnight(g.input("volume")), columns).tolist() == expected
    assert run(lambda g: g.since_midnight(g.input("volume")), columns, pieces=(1, 2, 8)).tolist() == expected


def test_equal_nodes_are_one_node():
    g = Graph()
    close = g.input("close")
    assert g.total(close, 20) is g.total(close, 20)
    assert g.ema(close, 9) is not g.ema(close, 10)


def test_a_set_computes_what_its_formulas_share_once():
    alone = sum(program_of((feature,)).nodes for feature in sixty_indicators())
    together = program_of(sixty_indicators()).nodes
    assert together < 0.6 * alone


def test_a_feature_has_the_same_bits_alone_and_in_any_company(make_bars):
    bars = make_bars(9, 2300, timeframe="1h", volume="patchy")
    table = compute_features(bars, feature_set("indicators"))
    for feature in sixty_indicators():
        np.testing.assert_array_equal(bits(feature.compute(bars)), bits(table[feature.column].to_numpy()))
    mixed = (BollingerB(bars=33), AtrRatio(bars=5), AverageDirectionalIndex(bars=9), *sixty_indicators()[::-3])
    shuffled = compute_features(bars, FeatureSet(name="mixed", version=1, features=mixed))
    for feature in mixed:
        np.testing.assert_array_equal(bits(feature.compute(bars)), bits(shuffled[feature.column].to_numpy()))


def test_a_runner_that_is_reset_forgets_the_symbol_before(make_bars):
    columns = [{"close": make_bars(seed, 1500)["close"].to_numpy()} for seed in (1, 2)]
    runner = Runner(program_of((CloseEmaRatio(bars=9), CloseSmaRatio(bars=50))))
    fresh, used = np.empty((2, 1500)), np.empty((2, 3000))
    for symbol, inputs in enumerate(columns):
        runner.reset()
        runner.feed(inputs, used, symbol * 1500)
    Runner(runner.program).feed(columns[1], fresh)
    np.testing.assert_array_equal(bits(used[:, 1500:].copy()), bits(fresh))


@pytest.mark.parametrize("column", [0, 3, 8, 1021])
def test_a_result_too_large_for_the_caches_is_the_same_result(make_bars, column):
    columns = {"close": make_bars(1, 2500)["close"].to_numpy()}
    program = program_of((CloseSmaRatio(bars=5), CloseEmaRatio(bars=9)))
    small = np.empty((2, 2500))
    Runner(program).feed(columns, small)
    large = empty_rows(2, LARGE_BYTES // 16 + 1)
    assert large.nbytes > LARGE_BYTES
    large[:] = 7.0
    Runner(program).feed(columns, large, column)
    np.testing.assert_array_equal(large[:, column : column + 2500], small)
    assert (large[:, :column] == 7.0).all()
    assert (large[:, column + 2500 : column + 5000] == 7.0).all()


@pytest.mark.parametrize("rows", [1, 60])
def test_every_row_of_a_result_begins_on_a_cache_line(rows):
    for columns in (1, 8, 13):
        made = empty_rows(rows, columns)
        assert made.shape == (rows, columns)
        assert all(row.ctypes.data % 64 == 0 for row in made)


def test_a_formula_that_needs_more_bars_than_promised_is_refused():
    g = Graph()
    with pytest.raises(ConfigError, match="promises a value after 18 bars, but its formula needs 19"):
        plan([(g.total(g.input("close"), 20), 18)])


def test_a_formula_without_bars_is_refused():
    with pytest.raises(ConfigError, match="no bar column is read"):
        plan([(Graph().zero(), 0)])


def test_columns_that_do_not_fit_are_refused():
    runner = Runner(program_of((AtrRatio(),)))
    columns = {name: np.ones(10) for name in ("high", "low", "close")}
    with pytest.raises(ValueError, match="do not fit"):
        runner.feed(columns, np.empty((1, 9)))
    for wrong in (np.ones(9), np.ones(10, np.float32), np.ones(20)[::2]):
        with pytest.raises(ValueError, match="do not fit"):
            runner.feed({**columns, "low": wrong}, np.empty((1, 10)))
    for wrong in (np.empty((2, 10)), np.empty((1, 10), np.float32), np.empty((1, 20))[:, ::2]):
        with pytest.raises(ValueError, match="do not fit"):
            runner.feed(columns, wrong)


def panel_of(features, columns):
    """The features of up to eight symbols, by symbol (T, F)."""
    panel = Panel.empty(len(features), [next(iter(one.values())).size for one in columns])
    PanelRunner(lane_code_of(features)).run(columns, panel, range(len(columns)))
    return [panel.of(symbol) for symbol in range(len(columns))]


def table_of(features, columns):
    out_FT = np.empty((len(features), next(iter(columns.values())).size))
    Runner(program_of(features)).feed(columns, out_FT)
    return out_FT.T


EVERY_FORMULA = tuple(
    {
        feature.column: feature
        for name in feature_set_names()
        for feature in feature_set(name).features
        if isinstance(feature, KernelFeature)
    }.values()
)


def random_columns(rng, bars):
    """Bars that jump, stand still and trade nothing: every branch of every operation is taken."""
    steps = np.where(rng.random(bars) < 0.4, 0.0, rng.normal(0.0, 0.01, bars))
    close = np.round(100.0 * np.exp(np.cumsum(steps)), 2)
    opened = np.concatenate([close[:1], close[:-1]])
    quiet = rng.random(bars) < 0.5
    high = np.maximum(opened, close) + np.where(quiet, 0.0, rng.random(bars))
    low = np.minimum(opened, close) - np.where(quiet, 0.0, rng.random(bars))
    volume = np.where(rng.random(bars) < 0.3, 0.0, rng.lognormal(8.0, 1.0, bars))
    volume[rng.random(bars) < 0.1] = np.nan
    day = (np.arange(bars) // 50).astype(np.float64)
    named = {"open": opened, "high": high, "low": low, "close": close, "volume": volume, "day": day}
    others = {name for feature in EVERY_FORMULA for name in program_of((feature,)).inputs} - set(named)
    return named | {name: 50.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, bars))) for name in sorted(others)}


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.one_of(st.integers(1, 40), st.sampled_from([1600, 1000, 624])), min_size=1, max_size=8),
)
def test_panel_code_has_the_bits_of_series_code_for_any_lengths_of_its_symbols(seed, sizes):
    rng = np.random.default_rng(seed)
    columns = [random_columns(rng, bars) for bars in sizes]
    for ours, one in zip(panel_of(EVERY_FORMULA, columns), columns, strict=True):
        np.testing.assert_array_equal(ours, table_of(EVERY_FORMULA, one).astype(np.float32))


def test_an_infinite_or_missing_price_stays_in_its_lane():
    rng = np.random.default_rng(4)
    columns = [random_columns(rng, 900) for _ in range(8)]
    clean = panel_of(EVERY_FORMULA, columns)
    columns[3]["close"][100:110] = [np.nan, np.inf, -np.inf, 0.0, -0.0, np.nan, 1e300, -1e300, 5e-324, np.nan]
    dirty = panel_of(EVERY_FORMULA, columns)
    with np.errstate(over="ignore"):
        expected = table_of(EVERY_FORMULA, columns[3]).astype(np.float32)
    np.testing.assert_array_equal(dirty[3], expected)
    for lane in {*range(8)} - {3}:
        np.testing.assert_array_equal(dirty[lane], clean[lane])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names a processor of another kind")
def test_a_plain_processor_computes_the_same_bits(monkeypatch):
    features = sixty_indicators()
    columns = [random_columns(np.random.default_rng(5), bars) for bars in (1200, 900)]
    here = table_of(features, columns[0])
    outputs = [(feature.formula(g), feature.lookback_bars - 1) for g in [Graph()] for feature in features]
    monkeypatch.setattr(binding, "get_host_cpu_name", lambda: "x86-64")  # SSE2: two doubles a register, no FMA
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: binding.FeatureMap())
    there, panel = np.empty((len(features), 1200)), Panel.empty(len(features), [1200, 900])
    Runner(plan(outputs)).feed(columns[0], there)
    np.testing.assert_array_equal(bits(there.T.copy()), bits(here.copy()))
    PanelRunner(compile_lanes(outputs, range(len(features)))).run(columns, panel, [0, 1])
    np.testing.assert_array_equal(panel.of(0), here.astype(np.float32))
    np.testing.assert_array_equal(panel.of(1), table_of(features, columns[1]).astype(np.float32))


def test_threads_share_code_and_not_memory():
    features = sixty_indicators()
    columns = [random_columns(np.random.default_rng(seed), 3000) for seed in range(6)]
    alone = [table_of(features, one) for one in columns]
    with ThreadPoolExecutor(3) as threads:
        tables = list(threads.map(lambda one: table_of(features, one), columns))
        panels = list(threads.map(lambda one: panel_of(features, [one] * 8)[5], columns))
    for expected, table, panel in zip(alone, tables, panels, strict=True):
        np.testing.assert_array_equal(table, expected)
        np.testing.assert_array_equal(panel, expected.astype(np.float32))


def test_a_panel_too_small_for_the_code_is_refused():
    code = lane_code_of((CloseSmaRatio(bars=5),), rows=(3,))
    with pytest.raises(ValueError, match="the panel has 3 rows; the code writes up to row 3"):
        PanelRunner(code).run([{"close": np.ones(10)}], Panel.empty(3, [10]), [0])


def test_a_panel_off_the_cache_lines_is_refused_and_not_written():
    runner = PanelRunner(lane_code_of((CloseSmaRatio(bars=5),)))
    good = Panel.empty(1, [10, 10])
    frozen = good.values_FT.view()
    frozen.flags.writeable = False
    for values, starts in (
        (good.values_FT.reshape(-1)[1:17].reshape(1, 16), (0, 0)),
        (good.values_FT[:, :20], (0, 0)),
        (good.values_FT.astype(np.float64), (0, 0)),
        (good.values_FT, (8, 0)),
        (good.values_FT, (32, 0)),
        (good.values_FT, (-16, 0)),
        (frozen, (0, 0)),
    ):
        with pytest.raises(ValueError, match=r"make panels with Panel\.empty"):
            runner.run([{"close": np.ones(10)}], Panel(values, starts, (10, 10)), [0])


def test_columns_that_do_not_fit_a_panel_are_refused():
    features = (CloseSmaRatio(bars=5),)
    runner, panel = PanelRunner(lane_code_of(features)), Panel.empty(1, [10] * 9)
    for wrong in (np.ones(9), np.ones(10, np.float32), np.ones(20)[::2]):
        with pytest.raises(ValueError, match=r"contiguous float64 of shape \(10,\) fits the panel"):
            runner.run([{"close": wrong}], panel, [0])
    for symbols in ([], list(range(9))):
        with pytest.raises(ValueError, match=f"{len(symbols)} symbols were passed; 1 to 8 run at once"):
            runner.run([{"close": np.ones(10)} for _ in symbols], panel, symbols)


def test_panel_code_is_not_made_for_a_formula_that_needs_more_bars_than_promised():
    class Hasty(CloseSmaRatio):
        lookback_bars = property(lambda self: self.bars - 1)

    with pytest.raises(ConfigError, match="promises a value after 3 bars, but its formula needs 4"):
        lane_code_of((Hasty(bars=5),))


@pytest.fixture(scope="module")
def sixty():
    """What the benchmark holds the indicators against; `bench` is no package of the test path."""
    spec = importlib.util.spec_from_file_location("sixty_of_the_bench", SIXTY)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_indicator_is_that_of_talib_to_nine_digits_after_the_warm_up(sixty):
    features = sixty_indicators()
    names = tuple(feature.column for feature in features)
    for seed in (0, 1):
        market = sixty.random_market(seed, 12_000)
        values = np.empty((len(features), 12_000))
        Runner(program_of(features)).feed(market.columns(), values)
        sixty.assert_equals_talib(names, lambda number, v=values: v[number], market, tolerance=1e-9)
        (panel,) = panel_of(features, [market.columns()])
        np.testing.assert_array_equal(panel.T, values.astype(np.float32))
        values[names.index("close_sma_ratio_20"), 5000] += 1e-11
        with pytest.raises(AssertionError, match="close_sma_ratio_20 differs from TA-Lib"):
            sixty.assert_equals_talib(names, lambda number, v=values: v[number], market, tolerance=1e-9)
