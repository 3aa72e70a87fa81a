"""Calibration: probabilities that come as often as they say, quantiles that hold as often as they promise.

Shapes: R rows, H horizons, Q levels.
"""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from support.row_models import context, learnable_data, run_here

from quantfleet.calibration import ConformalQuantiles, IsotonicCalibration, TemperatureCalibration
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError
from quantfleet.testing import check_model_contract
from quantfleet.training.single_task import SingleTaskModel
from quantfleet_models.calibrated import CalibratedConfig
from quantfleet_models.linear import RidgeConfig
from quantfleet_models.naive import ZeroReturnConfig


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SingleTaskModel, "_run", run_here)


def sure(rows: int = 20_000, factor: float = 3.0, seed: int = 0):
    """Log-odds that are `factor` times too sure, and what came."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=rows)
    return factor * honest, (rng.random(rows) < 1 / (1 + np.exp(-honest))).astype(float)


def test_the_temperature_is_how_many_times_too_sure_the_model_is():
    logit, up = sure(factor=3.0)
    assert TemperatureCalibration.fit(logit, up).temperature == pytest.approx(3.0, rel=0.05)
    logit, up = sure(factor=0.5)
    assert TemperatureCalibration.fit(logit, up).temperature == pytest.approx(0.5, rel=0.05)


def test_calls_that_come_less_often_than_chance_are_worth_even_odds():
    logit, up = sure()
    calibration = TemperatureCalibration.fit(-logit, up)
    assert calibration.temperature == np.inf
    assert (calibration.apply(logit) == 0).all()


def test_the_isotonic_map_is_scikit_learn_s_and_makes_probabilities_come_as_often_as_they_say():
    logit, up = sure()
    calibration = IsotonicCalibration.fit(logit, up)
    chance = 1 / (1 + np.exp(-calibration.apply(logit)))
    peer = IsotonicRegression(y_min=1e-3, y_max=1 - 1e-3, out_of_bounds="clip").fit(logit, up)
    np.testing.assert_allclose(chance, peer.predict(logit), rtol=1e-6, atol=1e-9)
    fresh, came = sure(seed=1)
    said = 1 / (1 + np.exp(-calibration.apply(fresh)))
    for low in (0.1, 0.3, 0.5, 0.7):
        own = (said >= low) & (said < low + 0.2)
        assert came[own].mean() == pytest.approx(said[own].mean(), abs=0.03)


@given(rows=st.integers(25, 200), seed=st.integers(0, 10_000), level=st.sampled_from([0.05, 0.2, 0.8, 0.95]))
@settings(max_examples=60)
def test_a_conformal_quantile_is_a_score_whose_rank_keeps_its_promise(rows, seed, level):
    """Of n + 1 exchangeable scores, the new one falls at or below the one of rank k with probability k / (n + 1)."""
    score = np.random.default_rng(seed).standard_t(3, rows)
    made = ConformalQuantiles.fit(np.zeros(rows), score, np.ones(rows), (level,))
    below = (score <= made.score_Q[0]).sum() / (rows + 1)
    assert below >= level - 1e-9 if level > 0.5 else below <= level + 1e-9
    assert abs(below - level) <= 1 / (rows + 1) + 1e-9


def test_intervals_hold_as_often_as_they_promise_whatever_the_forecast():
    rng, held = np.random.default_rng(0), []
    for _ in range(2000):
        spread = np.exp(rng.normal(size=61))
        outcome = 0.3 + spread * rng.standard_t(2, 61)  # heavy tails, and a forecast that is always wrong
        made = ConformalQuantiles.fit(np.zeros(60), outcome[:60], spread[:60], (0.1, 0.9))
        low, high = made.apply(np.zeros(1), spread[60:])[0]
        held.append(low <= outcome[60] <= high)
    assert 0.8 - 3 * 0.009 <= np.mean(held) <= 0.8 + 2 / 61 + 3 * 0.009


def test_too_few_rows_for_a_level_are_said():
    with pytest.raises(
        ConfigError, match=r"level 0\.99 needs 99 rows or more whose outcome is known, and there are 50"
    ):
        ConformalQuantiles.fit(np.zeros(50), np.arange(50.0), np.ones(50), (0.5, 0.99))
    with pytest.raises(EmptyTableError, match="nothing to calibrate by"):
        TemperatureCalibration.fit(np.zeros(0), np.zeros(0))


@pytest.mark.parametrize("directions", ["temperature", "isotonic", "none"])
def test_a_calibrated_model_keeps_the_contract(directions, tmp_path):
    (tmp_path / "saved").mkdir()
    config = CalibratedConfig(model=RidgeConfig(), directions=directions)
    model = check_model_contract(config, learnable_data(), context(tmp_path / "root"), tmp_path / "saved")
    assert model.config.quantiles == (0.05, 0.25, 0.5, 0.75, 0.95)


def test_on_data_of_one_kind_quantiles_hold_and_probabilities_are_better(tmp_path):
    data = learnable_data(chunks=60)
    plain, config = RidgeConfig().build(data.spec), CalibratedConfig(model=RidgeConfig(), spread="constant")
    model = config.build(data.spec)
    plain.fit(data, context(tmp_path / "plain"))
    model.fit(data, context(tmp_path / "calibrated"))
    batch = data.batches["test"]
    answer, before = model.predict(batch), plain.predict(batch)
    known = batch.mask_BC & np.isfinite(batch.y_BCK).all(2)
    outcome = batch.y_BCK[..., 0][known]
    for place, level in enumerate(config.quantiles):
        assert (outcome <= answer.quantile_BCHQ[..., 0, place][known]).mean() == pytest.approx(level, abs=0.04)

    def log_loss(forecast):
        logit, up = forecast.direction_logit_BCH[..., 0][known].astype(float), batch.y_BCK[..., 1][known]
        return np.mean(np.logaddexp(0, logit) - up * logit)

    assert log_loss(answer) <= log_loss(before) + 1e-3
    np.testing.assert_array_equal(np.sign(answer.direction_logit_BCH), np.sign(before.direction_logit_BCH))


def test_a_baseline_stays_a_baseline_and_levels_must_rise():
    assert CalibratedConfig(model=ZeroReturnConfig()).baseline
    assert not CalibratedConfig(model=RidgeConfig()).baseline
    with pytest.raises(ConfigError, match="must rise"):
        CalibratedConfig(model=RidgeConfig(), quantiles=(0.9, 0.1))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["directions"].clear(),
        lambda r: r["directions"][0].update(inverse=-1.0),
        lambda r: r["quantiles"][0].update(levels=[0.1] * 5),
        lambda r: r["quantiles"][0].update(score=[1.0, 0.0, 0.0, 0.0, 0.0]),
        lambda r: r.pop("quantiles"),
    ],
)
def test_a_damaged_calibration_is_refused(change, tmp_path):
    data, config = learnable_data(), CalibratedConfig(model=RidgeConfig())
    model = config.build(data.spec)
    model.fit(data, context(tmp_path / "root"))
    (tmp_path / "saved").mkdir()
    model.save(tmp_path / "saved")
    path = tmp_path / "saved" / "calibration.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(SchemaError):
        config.build(data.spec).load(tmp_path / "saved")
