"""ARMA, exponential smoothing and GARCH: the same numbers as their libraries, from windows alone.

Shapes: N windows, L returns of a window, S steps ahead.
"""

import numpy as np
import pytest
from arch import arch_model
from scipy.signal import lfilter
from statsmodels.tsa.arima_process import arma2ma
from support.row_models import context

from quantfleet.errors import ConfigError, SchemaError
from quantfleet.testing import check_model_contract
from quantfleet.testing.training_data import MemoryData, memory_data
from quantfleet_models.statistical import ARIMAConfig, ETSConfig, GARCHConfig
from quantfleet_models.statistical.filters import arma_forecast, garch_forecast, smoothed_level

CONFIGS = [
    ARIMAConfig(return_feature="f0", most_ar=1, most_ma=1),
    ETSConfig(return_feature="f0"),
    GARCHConfig(return_feature="f0"),
]


def series(bars: int = 600, seed: int = 0) -> np.ndarray:
    """ARMA(1, 1) around 0.1 with GARCH shocks."""
    rng = np.random.default_rng(seed)
    shock, variance = np.zeros(bars), 1.0
    for t in range(bars):
        shock[t] = np.sqrt(variance) * rng.normal()
        variance = 0.1 + 0.15 * shock[t] ** 2 + 0.75 * variance
    return 0.1 + lfilter([1.0, 0.3], [1.0, -0.5], shock)


def data_of(*, chunks: int = 14) -> MemoryData:
    """Three symbols whose feature f0 is one series each, in order of chunks: every bar stands where it belongs in time."""
    data = memory_data(0, chunks=chunks, lookback_bars=12)
    L = data.spec.lookback_bars
    for place, batch in enumerate(data.batches.values()):
        for i, symbol in enumerate(batch.symbol_id_B):
            number = int(batch.chunk_id_B[i] & 0xFFFFFFFF)
            whole = series(seed=int(symbol), bars=3 * chunks * 16 + L) * 0.01
            first = (place * chunks + number) * 16
            batch.x_BTF[i, :, 0] = whole[first : first + data.spec.chunk_rows]
    return data


@pytest.fixture(scope="module")
def data() -> MemoryData:
    return data_of()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_a_model_of_one_series_keeps_the_contract(config, data, tmp_path):
    (tmp_path / "saved").mkdir()
    model = check_model_contract(config, data, context(tmp_path / "root"), tmp_path / "saved")
    assert model.per_symbol


def test_an_arma_window_forecasts_as_statsforecast_does():
    from statsforecast.models import AutoARIMA

    y = series()
    fitted = AutoARIMA(d=0, seasonal=False, max_p=2, max_q=2).fit(y)
    found = fitted.model_["coef"]
    ar, ma = ([v for k, v in found.items() if k.startswith(name)] for name in ("ar", "ma"))
    assert ar
    mean, psi = arma_forecast(
        y[None],
        np.array([found.get("intercept", 0.0)]),
        np.array([ar]).reshape(1, -1),
        np.array([ma]).reshape(1, -1),
        5,
    )
    np.testing.assert_allclose(mean[0], fitted.predict(5)["mean"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(psi[0], arma2ma(np.r_[1.0, -np.array(ar)], np.r_[1.0, ma], 5), rtol=1e-10)


def test_a_smoothed_level_is_statsforecast_s_last_state():
    from statsforecast.models import AutoETS

    y = series()
    fitted = AutoETS(model="ANN").fit(y).model_
    alpha, start = fitted["par"][0], fitted["states"][0, 0]
    level = smoothed_level(y[None], np.array([start]), np.array([alpha]))
    np.testing.assert_allclose(level, fitted["states"][-1, 0], rtol=1e-8)


def test_a_garch_window_forecasts_the_variances_that_arch_does():
    y = series()
    result = arch_model(y, mean="Constant", vol="GARCH", p=1, q=1, rescale=False).fit(disp="off")
    mean, omega, alpha, beta = (np.array([result.params[name]]) for name in ("mu", "omega", "alpha[1]", "beta[1]"))
    start = np.array([result.conditional_volatility[0] ** 2])
    found = garch_forecast(y[None], mean, omega, alpha, beta, 6, start)
    np.testing.assert_allclose(found[0], result.forecast(horizon=6, reindex=False).variance.to_numpy()[0], rtol=1e-8)


@pytest.mark.parametrize("kind", ["arima", "ets"])
def test_the_spread_of_a_sum_of_returns_is_what_simulations_show(kind, data):
    config = {c.kind: c for c in CONFIGS}[kind]
    model = config.build(data.spec)
    model.fit(data, context())
    own = {name: values[:1] for name, values in model.parameters.items()}
    y_NL = np.zeros((1, 12))
    mean, total, each = model._moments(y_NL, own, 4, np.zeros(1, np.int64))
    rng, runs = np.random.default_rng(0), 40_000
    sums = np.zeros(runs)
    walk, paths = np.zeros((runs, 12)), {k: np.repeat(v, runs) for k, v in own.items()}
    for _ in range(4):
        step = model._moments(walk, paths, 1, np.zeros(runs, np.int64))[0][:, 0] + np.sqrt(each[0, 0]) * rng.normal(
            size=runs
        )
        walk, sums = np.concatenate([walk, step[:, None]], axis=1), sums + step
    assert sums.mean() == pytest.approx(mean.sum(), abs=4 * sums.std() / runs**0.5)
    assert sums.var() == pytest.approx(total[0, 3], rel=0.04)


def test_volatile_windows_get_higher_garch_volatilities(data):
    model = GARCHConfig(return_feature="f0").build(data.spec)
    model.fit(data, context())
    batch = data.batches["test"]
    L = data.spec.lookback_bars
    last_BC = np.abs(batch.x_BTF[:, L - 1 :, 0])
    volatility = model.predict(batch).volatility_BCH[..., 0]
    calm, wild = last_BC < np.quantile(last_BC, 0.2), last_BC > np.quantile(last_BC, 0.8)
    assert volatility[wild].mean() > 1.05 * volatility[calm].mean()


def test_only_training_returns_are_read(data):
    data.segments_read.clear()
    GARCHConfig(return_feature="f0").build(data.spec).fit(data, context())
    assert set(data.segments_read) == {"train"}


def test_a_symbol_with_too_few_returns_gets_the_others_mean():
    data = data_of()
    batch = data.batches["train"]
    batch.mask_BC[batch.symbol_id_B == 2] = False
    model = GARCHConfig(return_feature="f0").build(data.spec)
    model.fit(data, context())
    for values in model.parameters.values():
        assert values[2] == pytest.approx(values[:2].mean())


def test_bad_columns_short_histories_and_foreign_files_are_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="reads the feature 'log_return_1', which the feature set does not compute"):
        GARCHConfig().build(data.spec)
    with pytest.raises(ConfigError, match="no symbol has 5000 training returns"):
        GARCHConfig(return_feature="f0", least_rows=5000).build(data.spec).fit(data, context())
    model = GARCHConfig(return_feature="f0").build(data.spec)
    model.fit(data, context())
    model.save(tmp_path)
    text = (tmp_path / "parameters.json").read_text()
    for broken in (text[:40], text.replace("S0", "S9"), text.replace('"omega": [', '"omega": [NaN, ')):
        (tmp_path / "parameters.json").write_text(broken)
        with pytest.raises(SchemaError):
            GARCHConfig(return_feature="f0").build(data.spec).load(tmp_path)


def test_without_statsforecast_the_extra_is_named(data, monkeypatch):
    def refuse(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(ConfigError, match=r"pip install 'quantfleet\[statistical\]'"):
        ETSConfig(return_feature="f0").build(data.spec).fit(data, context())
