"""A stored model answers for windows of raw features: of the right shape, whole, and for nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support.stored_models import FEATURES, PROVENANCE, SPEC, fitted, store, windows

from quantfleet.errors import SchemaError
from quantfleet.registry.artifact import StoredModel
from quantfleet.serving.window_model import WindowModel
from quantfleet_jobs.pyfunc import _load_pyfunc

ONE_BAR = replace(SPEC, chunk_bars=1)


@pytest.fixture
def model() -> WindowModel:
    return WindowModel(StoredModel(fitted(spec=ONE_BAR), FEATURES, PROVENANCE, "digest"))


@pytest.fixture
def x_NLF() -> np.ndarray:
    return windows(5, spec=ONE_BAR).x_BTF


def test_windows_are_answered_with_one_row_per_window_and_one_column_per_horizon(model: WindowModel, x_NLF: np.ndarray):
    answers = model.predict(x_NLF)
    assert {head: values.shape for head, values in answers.items()} == {
        "return": (5, 2),
        "direction_logit": (5, 2),
        "volatility": (5, 2),
    }


def test_a_window_is_answered_as_the_model_answers_the_same_chunk(model: WindowModel, x_NLF: np.ndarray):
    own = fitted(spec=ONE_BAR).predict(windows(5, spec=ONE_BAR))
    answers = model.predict(x_NLF)
    assert np.array_equal(answers["return"], own.return_BCH[:, 0])
    assert np.array_equal(answers["direction_logit"], own.direction_logit_BCH[:, 0])
    assert np.array_equal(answers["volatility"], own.volatility_BCH[:, 0])


def test_an_answer_does_not_depend_on_the_other_windows(model: WindowModel, x_NLF: np.ndarray):
    together = model.predict(x_NLF)["return"]
    alone = [model.predict(x_NLF[i : i + 1])["return"][0] for i in range(5)]
    assert np.array_equal(together, alone)


@pytest.mark.parametrize(
    "form", [lambda x: x, lambda x: {"x_NLF": x}, lambda x: x.astype(np.float64), lambda x: x.tolist()]
)
def test_arrays_lists_and_the_signature_s_name_mean_the_same(form: Any, model: WindowModel, x_NLF: np.ndarray):
    assert np.array_equal(model.predict(form(x_NLF))["return"], model.predict(x_NLF)["return"])


def test_no_windows_get_no_answers(model: WindowModel):
    assert model.predict(np.zeros((0, 4, 2)))["return"].shape == (0, 2)


@pytest.mark.parametrize(
    "shape", [(4, 2), (5, 3, 2), (5, 5, 2), (5, 4, 1), (5, 4, 3), (1, 5, 4, 2)], ids=lambda shape: str(shape)
)
def test_another_shape_is_refused_with_both_shapes(shape: tuple[int, ...], model: WindowModel):
    with pytest.raises(SchemaError) as caught:
        model.predict(np.zeros(shape))
    assert caught.value.message == f"input has shape {shape}; the model reads (N, 4 bars, 2 features)."


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_window_with_a_hole_is_refused_not_guessed(value: float, model: WindowModel, x_NLF: np.ndarray):
    x_NLF[[1, 3], 2, 0] = value
    with pytest.raises(SchemaError, match=r"^2 of 5 windows hold values that are not finite"):
        model.predict(x_NLF)


@pytest.mark.parametrize("given", [{"x": 1}, {}, {"x_NLF": np.zeros((1, 4, 2)), "symbol": ["AAA"]}])
def test_another_name_than_the_signature_s_is_refused(given: dict[str, Any], model: WindowModel):
    with pytest.raises(SchemaError, match=r"the model reads x_NLF, shape \(N, 4 bars, 2 features\)"):
        model.predict(given)


@pytest.mark.parametrize("given", [[["a", "b"]], [[[1.0, 2.0], [1.0]]]], ids=["texts", "ragged"])
def test_what_is_no_array_of_numbers_is_refused(given: Any, model: WindowModel):
    with pytest.raises(SchemaError, match=r"^input is no array of numbers"):
        model.predict(given)


def test_a_table_is_refused_by_its_shape(model: WindowModel):
    with pytest.raises(SchemaError, match=r"input has shape \(3, 2\)"):
        model.predict(pl.DataFrame({"a": [1.0] * 3, "b": [2.0] * 3}))


def test_mlflow_s_loader_makes_a_window_model_of_a_stored_one(tmp_path: Path, x_NLF: np.ndarray, model: WindowModel):
    folder, _ = store(tmp_path)
    loaded = _load_pyfunc(str(folder))
    assert np.array_equal(loaded.predict(x_NLF)["return"], model.predict(x_NLF)["return"])
