"""Exported graphs: what ONNX Runtime answers is what torch answers.

Shapes: N windows or streams, L look-back bars, F features, H horizons.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_models import tiny

from quantfleet.errors import ConfigError, SchemaError
from quantfleet.serving.streaming import BarStreams
from quantfleet.testing.training_data import MemoryData, memory_data
from quantfleet.training import LossConfig
from quantfleet.training.torch_model import TorchModel
from quantfleet.transforms import InputTransform
from quantfleet_data.scaling import RollingScalerConfig
from quantfleet_models.hybrid import HybridConfig
from quantfleet_models.xlstm import XLSTMConfig

pytest.importorskip("onnxruntime", reason="pip install 'quantfleet[onnx]'")
from quantfleet.serving.onnx import OnnxStreams, OnnxWindows, export_onnx
from quantfleet.serving.onnx.export import FLOAT_TOLERANCE, INT8_TOLERANCE

L = 12
WIDE = HybridConfig(width=32, positions="rotary", attention_layers=2)
QUANTILES = LossConfig(quantiles=(0.1, 0.5, 0.9))


@pytest.fixture(scope="module")
def data() -> MemoryData:
    return memory_data(lookback_bars=L)


def fitted(config, data: MemoryData) -> TorchModel:
    """Random weights, and scales of labels and features that are not 1."""
    torch.manual_seed(0)
    model = config.build(data.spec)
    model.inputs = InputTransform.fit(data, scaler=config.scaler, selection=None, label=None)
    model._build(model.inputs.spec)
    model.forecaster.set_label_scales(data.stats)
    model.forecaster.eval()
    return model


def windows(data: MemoryData, N: int) -> np.ndarray:
    batch = data.batches["train"]
    return np.ascontiguousarray(batch.x_BTF[:N, :L])


def torch_answers(model: TorchModel, x_NLF: np.ndarray, symbol_id_N: np.ndarray) -> dict[str, np.ndarray]:
    assert model.inputs is not None
    with torch.inference_mode():
        answer = model.forecaster.answer(torch.from_numpy(model.inputs.apply(x_NLF, symbol_id_N)))
    return {name: value.numpy() for name, value in answer.items()}


@pytest.mark.parametrize(
    "name", ["hybrid", "gru", "tcn", "transformer", "dlinear", "lstm_attention", "efficient_hybrid"]
)
def test_a_graph_of_windows_answers_as_torch_does(name, data, tmp_path):
    model = fitted(tiny(name, loss=QUANTILES), data)
    graph = export_onnx(model, tmp_path / "graph", rows=3)
    assert graph.error <= FLOAT_TOLERANCE
    x_NLF = windows(data, 3)
    answers = OnnxWindows(tmp_path / "graph").answer(x_NLF, ["S0", "S0", "S0"])
    expected = torch_answers(model, x_NLF, np.zeros(3, np.int32))
    assert set(answers) == set(expected) >= {"return", "direction", "volatility", "quantiles"}
    for head, value in expected.items():
        np.testing.assert_allclose(answers[head], value, rtol=1e-4, atol=1e-5, err_msg=head)


@pytest.mark.parametrize(
    "config",
    [WIDE, replace(WIDE, scaler=RollingScalerConfig(window_bars=4)), XLSTMConfig(width=16, memory_heads=2, blocks=2)],
    ids=["hybrid", "rolling scaler", "xlstm"],
)
def test_a_graph_of_a_stream_answers_every_bar_as_torch_s_stream_does(config, data, tmp_path):
    model, symbols = fitted(config, data), ["S2", "S0"]
    export_onnx(model, tmp_path / "graph", stream=True, rows=2)
    ours, theirs = OnnxStreams(tmp_path / "graph", symbols), BarStreams(model, symbols)
    bars = data.batches["train"].x_BTF[[10, 0]]
    said = 0
    for t in range(2 * L):  # beyond the window: keys are forgotten
        answer, expected = ours.push(bars[:, t]), theirs.push(bars[:, t])
        assert (answer is None) == (expected is None)
        for head, value in (expected or {}).items():
            said += 1
            np.testing.assert_allclose(answer[head], value, rtol=1e-3, atol=1e-5, err_msg=f"{head} of bar {t}")
    assert said >= 3 * L


@pytest.mark.parametrize("stream", [False, True])
def test_eight_bits_stay_within_the_tolerance_they_state_and_are_smaller(stream, data, tmp_path):
    model = fitted(replace(WIDE, width=64), data)
    whole = export_onnx(model, tmp_path / "whole", stream=stream)
    small = export_onnx(model, tmp_path / "small", stream=stream, int8=True)
    assert whole.error < 1e-4 < small.error <= INT8_TOLERANCE
    assert (tmp_path / "small/graph.onnx").stat().st_size < 0.7 * (tmp_path / "whole/graph.onnx").stat().st_size


def test_a_graph_that_is_too_far_from_torch_is_not_written(data, tmp_path, monkeypatch):
    monkeypatch.setattr("quantfleet.serving.onnx.export.INT8_TOLERANCE", 1e-6)
    with pytest.raises(
        ConfigError, match=r"the 8 bit graph of 'hybrid' differs from torch by .*Export it without --int8"
    ):
        export_onnx(fitted(WIDE, data), tmp_path / "graph", int8=True)
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_exported_or_answered_is_refused_with_what_to_do(data, tmp_path):
    model = fitted(WIDE, data)
    with pytest.raises(SchemaError, match="is empty: fit or load it before it is exported"):
        export_onnx(WIDE.build(data.spec), tmp_path / "graph")
    with pytest.raises(
        ConfigError, match=r"the network of 'patch_tst' cannot be written as an ONNX graph: .*Serve it by torch"
    ):
        export_onnx(fitted(tiny("patch_tst"), data), tmp_path / "graph")
    with pytest.raises(ConfigError, match="carries no state from bar to bar"):
        export_onnx(fitted(tiny("gru"), data), tmp_path / "graph", stream=True)
    with pytest.raises(ConfigError, match="belongs to places of a window"):
        export_onnx(fitted(replace(WIDE, positions="learned"), data), tmp_path / "graph", stream=True)
    export_onnx(model, tmp_path / "graph", stream=True)
    with pytest.raises(ConfigError, match="exists already"):
        export_onnx(model, tmp_path / "graph")
    with pytest.raises(SchemaError, match="holds a graph of stream, not of windows"):
        OnnxWindows(tmp_path / "graph")
    with pytest.raises(SchemaError, match="carries 1 streams, and 2 symbols are given"):
        OnnxStreams(tmp_path / "graph", ["S0", "S1"])
    with pytest.raises(SchemaError, match="was not fitted on 'S7'"):
        OnnxStreams(tmp_path / "graph", ["S7"])
    streams = OnnxStreams(tmp_path / "graph", ["S0"])
    with pytest.raises(SchemaError, match="values that are not finite"):
        streams.push(np.full((1, 4), np.nan, np.float32))
    record = json.loads((tmp_path / "graph/graph.json").read_text())
    (tmp_path / "graph/graph.json").write_text(json.dumps({k: v for k, v in record.items() if k != "heads"}))
    with pytest.raises(SchemaError, match="does not describe an exported graph"):
        OnnxStreams(tmp_path / "graph", ["S0"])


def test_without_the_package_the_extra_is_named(data, tmp_path, monkeypatch):
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("quantfleet.serving.onnx.export.importlib.import_module", refuse)
    with pytest.raises(ConfigError, match=r"pip install 'quantfleet\[onnx\]'"):
        export_onnx(fitted(WIDE, data), tmp_path / "graph")
