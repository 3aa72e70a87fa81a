"""Prophet: the package's own forecast from stored parameters, by the time of a bar.

Shapes: N windows, S steps ahead, R training bars.
"""

from dataclasses import replace

import numpy as np
import pytest
from support.row_models import context

from quantfleet.errors import ConfigError, SchemaError
from quantfleet.testing import check_model_contract
from quantfleet.testing.training_data import HOUR_US, MemoryData, memory_data
from quantfleet_models.statistical import ProphetConfig
from quantfleet_models.statistical.prophet import ProphetModel, next_bars

DAY_US = 24 * HOUR_US
FIRST_US = 18_262 * DAY_US  # 2020-01-01, a Wednesday
CONFIG = ProphetConfig(return_feature="f0", changepoints=5, yearly=False, least_rows=60)


def dated_data() -> MemoryData:
    """Hourly bars from 2020 on, returns of about 1 %."""
    data = memory_data(chunks=14, lookback_bars=12)
    for place, (segment, batch) in enumerate(list(data.batches.items())):
        batch.x_BTF[..., 0] = np.random.default_rng(place).normal(0, 0.01, batch.x_BTF.shape[:2])
        data.batches[segment] = replace(batch, time_BC=batch.time_BC + FIRST_US)  # type: ignore[index]
    return data


@pytest.fixture(scope="module")
def daily() -> tuple[np.ndarray, np.ndarray]:
    """Times and returns of 400 weekdays: Mondays rise, and the drift turns half-way."""
    day = np.arange(560)
    day = day[(day + 2) % 7 < 5]
    monday = (day + 2) % 7 == 0
    rng = np.random.default_rng(0)
    return_R = 0.004 * monday + np.where(day < 280, 0.001, -0.001) + rng.normal(0, 0.002, len(day))
    return FIRST_US + day * DAY_US, return_R


@pytest.fixture(scope="module")
def data() -> MemoryData:
    return dated_data()


def model_of(data: MemoryData, **changes: object) -> ProphetModel:
    model = replace(CONFIG, **changes).build(replace(data.spec, timeframe="1d"))
    assert isinstance(model, ProphetModel)
    return model


def test_stored_parameters_forecast_what_the_package_does(data, daily):
    pd = pytest.importorskip("pandas")
    prophet = pytest.importorskip("prophet", reason="pip install 'quantfleet[prophet]'")
    time_R, return_R = daily
    model = model_of(data, yearly=True)
    own = {name: np.array([value]) for name, value in model._fit_series(return_R, time_R).items()}
    theirs = prophet.Prophet(
        n_changepoints=5,
        uncertainty_samples=0,
        weekly_seasonality=True,
        yearly_seasonality=True,
        daily_seasonality=False,
    ).fit(pd.DataFrame({"ds": pd.to_datetime(time_R, unit="us"), "y": return_R.cumsum()}), seed=0)
    asked = np.concatenate([time_R[::40], time_R[-1] + DAY_US * np.arange(1, 40)])
    yhat = theirs.predict(pd.DataFrame({"ds": pd.to_datetime(asked, unit="us")}))["yhat"].to_numpy()
    ours = model._log_price(asked[None], own)[0]
    np.testing.assert_allclose(ours - ours[0], yhat - yhat[0], rtol=1e-6, atol=1e-9)
    assert np.ptp(yhat) > 0.05


def test_it_finds_the_weekday_that_rises_and_skips_days_without_bars(data, daily):
    pytest.importorskip("prophet", reason="pip install 'quantfleet[prophet]'")
    time_R, return_R = daily
    model = model_of(data)
    own = {name: np.repeat(value, 2) for name, value in model._fit_series(return_R, time_R).items()}
    assert [own[f"weekday{i}"][0] for i in range(7)] == [1, 1, 1, 1, 1, 0, 0]
    friday, monday = FIRST_US + 562 * DAY_US, FIRST_US + 565 * DAY_US
    mean_NS, total_NS, each_NS = model._moments(np.zeros((2, 12)), own, 3, np.array([friday, monday]))
    # the bar after Friday's is Monday's; the seasons' prior takes a good part of its 0.4 % away
    assert 0.001 < mean_NS[0, 0] - mean_NS[1, 0] < 0.004
    np.testing.assert_allclose(mean_NS[0, 1:], mean_NS[1, :2], atol=1e-9)
    assert each_NS[0, 0] ** 0.5 == pytest.approx(0.002, rel=0.25)
    np.testing.assert_allclose(total_NS, each_NS.cumsum(1))


def test_it_keeps_the_model_contract(data, tmp_path):
    pytest.importorskip("prophet", reason="pip install 'quantfleet[prophet]'")
    (tmp_path / "saved").mkdir()
    model = check_model_contract(CONFIG, data, context(tmp_path / "root"), tmp_path / "saved")
    batch = data.batches["test"]
    later = model.predict(replace(batch, time_BC=batch.time_BC + 3 * DAY_US))
    assert not np.allclose(later.return_BCH, model.predict(batch).return_BCH), "time counts"
    with pytest.raises(SchemaError, match="answers by the time of a bar, and some windows come without one"):
        model.predict(replace(batch, time_BC=np.zeros_like(batch.time_BC)))


def test_bars_of_a_market_that_never_closes_lie_a_timeframe_apart():
    friday = np.array([FIRST_US + 2 * DAY_US])
    always, weekdays = np.ones((1, 7), bool), np.array([[1, 1, 1, 1, 1, 0, 0]], bool)
    assert ((next_bars(friday, always, DAY_US, 3) - friday) // DAY_US).tolist() == [[1, 2, 3]]
    assert ((next_bars(friday, weekdays, DAY_US, 3) - friday) // DAY_US).tolist() == [[3, 4, 5]]
    never = np.zeros((1, 7), bool)  # no training bars at all: nothing is known of its days
    assert ((next_bars(friday, never, DAY_US, 2) - friday) // DAY_US).tolist() == [[1, 2]]


def test_without_the_package_the_extra_is_named(data, monkeypatch):
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(ConfigError, match=r"pip install 'quantfleet\[prophet\]' where the fit runs"):
        CONFIG.build(data.spec).fit(data, context())
