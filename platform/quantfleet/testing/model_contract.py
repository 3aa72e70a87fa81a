"""The suite every registered model passes: `check_model_contract` raises AssertionError with the sentence that does not hold.

Run it on a model of your own from one test:

    def test_my_model_keeps_the_contract(training_data, fit_context, tmp_path):
        check_model_contract(MyConfig(), training_data, fit_context, tmp_path)
"""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from quantfleet.config import from_plain, to_plain
from quantfleet.contracts import ChunkBatch, FitContext, Forecast, Model, ModelConfig, TrainingData
from quantfleet.errors import SchemaError

__all__ = ["check_model_contract"]

_HEADS = ("return_BCH", "direction_logit_BCH", "volatility_BCH", "position_BC", "quantile_BCHQ", "confidence_BCH")


def check_model_contract(config: ModelConfig, data: TrainingData, context: FitContext, directory: Path) -> Model:
    """Fit a model once and prove that it keeps the contract; return it fitted.

    Args:
        directory: an empty folder to save into.
    """
    _config_is_data(config)
    model = config.build(data.spec)
    report = model.fit(data, context)
    assert report.seconds >= 0, "a fit reports how long it took"
    batch = next(data.read("test"))
    forecast = model.predict(batch)
    _answers_have_the_right_shape(forecast, batch, data)
    _same(forecast, model.predict(batch), "the same question gets the same answer")
    _answers_stand_alone(model, batch, forecast)
    _answers_are_causal(model, batch, forecast, data)
    _labels_are_not_read(model, batch, forecast)
    _other_data_are_refused(model, batch)
    _survives_storage(model, config, batch, forecast, data, directory)
    scores = model.evaluate(data, "test")
    assert scores, "evaluate returns scores"
    return model


def _config_is_data(config: ModelConfig) -> None:
    rebuilt = from_plain(ModelConfig, to_plain(config), where="contract")
    assert rebuilt == config, "a config survives being written down as plain data"
    assert pickle.loads(pickle.dumps(config)) == config, "a config travels to workers"  # noqa: S301 - our own bytes
    fields = dataclasses.fields(config)
    if fields:
        try:
            setattr(config, fields[0].name, None)
        except dataclasses.FrozenInstanceError:
            return
        raise AssertionError("a config is frozen")


def _answers_have_the_right_shape(forecast: Forecast, batch: ChunkBatch, data: TrainingData) -> None:
    expected = (*batch.mask_BC.shape, len(data.spec.horizons_bars))
    assert forecast.return_BCH.shape == expected, f"heads have one answer per target and horizon, {expected}"
    for name, values in _heads(forecast):
        assert np.isfinite(values[batch.mask_BC]).all(), f"{name} is finite wherever a target counts"
    assert (forecast.volatility_BCH[batch.mask_BC] >= 0).all(), "volatility is not negative"
    if forecast.quantile_BCHQ is not None:
        assert (np.diff(forecast.quantile_BCHQ[batch.mask_BC]) >= 0).all(), "quantiles rise with their level"
    if forecast.confidence_BCH is not None:
        chance = forecast.confidence_BCH[batch.mask_BC]
        assert ((chance >= 0) & (chance <= 1)).all(), "a confidence is a probability"
    if forecast.position_BC is not None:
        assert (np.abs(forecast.position_BC[batch.mask_BC]) <= 1).all(), "positions lie in [-1, 1]"


def _heads(forecast: Forecast) -> Iterator[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    for name in _HEADS:
        values = getattr(forecast, name)
        if values is not None:
            yield name, values


def _same(
    left: Forecast, right: Forecast, sentence: str, *, at: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] | None = None
) -> None:
    for (name, a), (_, b) in zip(_heads(left), _heads(right), strict=True):
        chosen = slice(None) if at is None else at
        np.testing.assert_allclose(a[chosen], b[chosen], rtol=1e-4, atol=1e-6, err_msg=f"{sentence} ({name})")


def _answers_stand_alone(model: Model, batch: ChunkBatch, forecast: Forecast) -> None:
    for i in (0, len(batch.chunk_id_B) - 1):
        alone = model.predict(_rows(batch, slice(i, i + 1)))
        for (name, whole), (_, one) in zip(_heads(forecast), _heads(alone), strict=True):
            counted = batch.mask_BC[i]
            np.testing.assert_allclose(
                whole[i][counted],
                one[0][counted],
                rtol=1e-3,
                atol=1e-5,
                err_msg=f"an answer does not depend on the other chunks of its batch ({name})",
            )


def _answers_are_causal(model: Model, batch: ChunkBatch, forecast: Forecast, data: TrainingData) -> None:
    """Change every row after the first half of the targets: answers of the first half stay."""
    spec, half = data.spec, data.spec.chunk_bars // 2
    changed = batch.x_BTF.copy()
    changed[:, spec.lookback_bars - 1 + half :] = changed[:, spec.lookback_bars - 1 + half :] * -3.0 + 1.0
    before = np.zeros_like(batch.mask_BC)
    before[:, :half] = batch.mask_BC[:, :half]
    answers = model.predict(dataclasses.replace(batch, x_BTF=changed))
    _same(forecast, answers, "an answer does not change when later rows do", at=before)


def _labels_are_not_read(model: Model, batch: ChunkBatch, forecast: Forecast) -> None:
    blind = dataclasses.replace(batch, y_BCK=np.full_like(batch.y_BCK, np.nan))
    _same(forecast, model.predict(blind), "an answer does not read labels")


def _other_data_are_refused(model: Model, batch: ChunkBatch) -> None:
    """Models that read the features refuse a batch with one feature fewer; those that do not may answer."""
    narrow = dataclasses.replace(batch, x_BTF=batch.x_BTF[:, :, :-1])
    try:
        model.predict(narrow)
    except SchemaError:
        return
    wide = dataclasses.replace(batch, x_BTF=batch.x_BTF + 1.0)
    ignored = all(
        np.array_equal(a, b)
        for (_, a), (_, b) in zip(_heads(model.predict(batch)), _heads(model.predict(wide)), strict=True)
    )
    assert ignored or model.config.required_features, "a batch with a feature missing is refused with a SchemaError"


def _survives_storage(
    model: Model, config: ModelConfig, batch: ChunkBatch, forecast: Forecast, data: TrainingData, directory: Path
) -> None:
    model.save(directory)
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files, "save writes files"
    for path in files:
        head = path.read_bytes()[:9]
        # safetensors begin with the length of their header, which may look like it, and then the header's brace
        pickled = head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and head[8:] != b"{"
        assert not pickled, f"{path.name} is a pickle"
        assert not zipfile.is_zipfile(path), f"{path.name} is a zip archive, as torch.save writes with pickles inside"
    loaded = config.build(data.spec)
    loaded.load(directory)
    for (name, a), (_, b) in zip(_heads(forecast), _heads(loaded.predict(batch)), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=f"a stored model answers as before, to the bit ({name})")
    empty = directory / "nothing-here"
    empty.mkdir()
    try:
        config.build(data.spec).load(empty)
    except SchemaError:
        return
    raise AssertionError("loading from a folder without weights raises SchemaError")


def _rows(batch: ChunkBatch, part: slice) -> ChunkBatch:
    return ChunkBatch(**{f.name: getattr(batch, f.name)[part] for f in dataclasses.fields(batch)})
