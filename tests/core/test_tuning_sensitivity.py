"""Sobol' indices against the analytic ones of Ishigami's function, of the function itself and of a surrogate of trials."""

import math

import numpy as np
import pytest

from quantfleet.errors import ConfigError, DataError
from quantfleet.tuning import ParameterRange
from quantfleet.tuning.sensitivity import from_unit, settings_sensitivity, sobol_indices, to_unit

A, B = 7.0, 0.1
ISHIGAMI = {name: ParameterRange(low=-math.pi, high=math.pi) for name in ("x1", "x2", "x3")}


def ishigami(x):
    return np.sin(x["x1"]) + A * np.sin(x["x2"]) ** 2 + B * x["x3"] ** 4 * np.sin(x["x1"])


def analytic():
    """First-order and total indices. Source: Ishigami and Homma 1990; Sobol and Levitan 1999."""
    whole = A**2 / 8 + B * math.pi**4 / 5 + B**2 * math.pi**8 / 18 + 0.5
    v1, v2 = 0.5 * (1 + B * math.pi**4 / 5) ** 2, A**2 / 8
    v13 = B**2 * math.pi**8 * (1 / 18 - 1 / 50)
    return {"x1": (v1 / whole, (v1 + v13) / whole), "x2": (v2 / whole, v2 / whole), "x3": (0.0, v13 / whole)}


def test_indices_of_ishigamis_function_are_the_analytic_ones():
    found = sobol_indices(ishigami, ISHIGAMI, base_samples=8192)
    assert [s.name for s in found.settings] == ["x1", "x2", "x3"]
    assert found.evaluations == 5 * 8192
    for s in found.settings:
        first, total = analytic()[s.name]
        assert s.first == pytest.approx(first, abs=0.02)
        assert s.total == pytest.approx(total, abs=0.02)
        assert s.first_low <= first <= s.first_high
        assert s.total_low <= total <= s.total_high


def test_a_surrogate_of_trials_finds_them_too_and_says_how_much_it_knows():
    rng = np.random.default_rng(0)
    trials = [
        {name: float(v) for name, v in zip(ISHIGAMI, row, strict=True)}
        for row in rng.uniform(-math.pi, math.pi, (120, 3))
    ]
    losses = [float(ishigami(t)) for t in trials]
    found = settings_sensitivity([*trials, trials[0]], [*losses, math.nan], ISHIGAMI, base_samples=512)
    assert found.trials == 120
    assert 0.8 < found.r2 <= 1.0
    for s in found.settings:
        first, total = analytic()[s.name]
        assert s.first_low <= first <= s.first_high
        assert s.total_low <= total <= s.total_high
        assert s.total == pytest.approx(total, abs=0.12)


SPACE = {
    "rate": ParameterRange(low=1e-4, high=1e-1, log=True),
    "width": ParameterRange(low=8, high=64),
    "kind": ParameterRange(choices=("a", "b", "c")),
    "depth": ParameterRange(low=1, high=6, log=True),
}


def test_settings_go_to_the_unit_interval_and_back():
    rng = np.random.default_rng(1)
    for of in SPACE.values():
        values = from_unit(rng.random(500), of).tolist()
        np.testing.assert_array_equal(
            from_unit(to_unit(values, of, "it"), of), np.array(values)
        ) if of.whole or of.choices else (
            np.testing.assert_allclose(from_unit(to_unit(values, of, "it"), of), values, rtol=1e-12)
        )
    counts = np.bincount(from_unit((np.arange(57_000) + 0.5) / 57_000, SPACE["width"]), minlength=65)[8:]
    assert counts.tolist() == [1000] * 57


def test_choices_logarithms_and_settings_without_effect_are_told_apart():
    rng = np.random.default_rng(2)
    trials = [{name: from_unit(rng.random(1), of)[0] for name, of in SPACE.items()} for _ in range(60)]
    losses = [abs(math.log10(t["rate"]) + 2.5) + {"a": 0.0, "b": 1.0, "c": 0.2}[t["kind"]] for t in trials]
    found = settings_sensitivity(trials, losses, SPACE, base_samples=256)
    by_name = {s.name: s for s in found.settings}
    assert {s.name for s in found.settings[:2]} == {"rate", "kind"}
    assert max(by_name["width"].total, by_name["depth"].total) < 0.05
    kind = np.var([0.0, 1.0, 0.2])
    rate = np.var(np.abs(np.linspace(-4, -1, 100_001) + 2.5))
    assert by_name["kind"].first == pytest.approx(kind / (kind + rate), abs=0.1)


def test_noise_is_not_concluded_from():
    rng = np.random.default_rng(3)
    trials = [{name: from_unit(rng.random(1), of)[0] for name, of in SPACE.items()} for _ in range(40)]
    with pytest.raises(DataError, match=r"cross-validated R2\), less than 50%: nothing can be concluded"):
        settings_sensitivity(trials, rng.normal(size=40).tolist(), SPACE)


@pytest.mark.parametrize(
    ("trials", "losses", "error", "message"),
    [
        ([{"x1": 0.0, "x2": 0.0, "x3": 0.0}] * 9, [1.0] * 9, DataError, "9 trials have a loss.* at least 10"),
        ([{"x1": 9.0, "x2": 0.0, "x3": 0.0}] * 12, [1.0] * 12, ConfigError, "x1=9.0, outside"),
        ([{"x1": 0.0, "x2": 0.0, "x3": 0.0}] * 12, [1.0] * 12, DataError, "no setting explains anything"),
    ],
)
def test_trials_that_say_nothing_are_refused(trials, losses, error, message):
    with pytest.raises(error, match=message):
        settings_sensitivity(trials, losses, ISHIGAMI)


@pytest.mark.parametrize(
    ("evaluate", "options", "error", "message"),
    [
        (ishigami, {"base_samples": 1000}, ConfigError, "power of 2"),
        (ishigami, {"confidence": 1.0}, ConfigError, "between 0 and 1"),
        (lambda x: x["x1"] * 0.0, {}, DataError, "no variance"),
        (lambda x: np.log(x["x1"] * 0.0 - 1.0), {}, DataError, "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_design_that_cannot_be_analysed_is_refused(evaluate, options, error, message):
    with pytest.raises(error, match=message):
        sobol_indices(evaluate, ISHIGAMI, **options)
