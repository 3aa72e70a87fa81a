"""A fitted torch model as an ONNX graph, in float32 or with weights and activations in 8 bits, proven against torch when written.

The folder holds `graph.onnx`, `graph.json` (what the graph is, and how far it is from torch), the scaler and selection that its
inputs go through, and for a stream the state it begins with; nothing in it is a program.

Shapes: N windows or streams, L look-back bars, G selected features, H horizons.
"""

from __future__ import annotations

import importlib
import json
import tempfile
import warnings
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quantfleet.contracts.streaming import StreamingNetwork
from quantfleet.errors import ConfigError, SchemaError
from quantfleet.training.export import check_new_folder
from quantfleet.training.module import ScaledForecaster
from quantfleet.training.torch_model import TorchModel

__all__ = [
    "BEGIN_FILE",
    "FLOAT_TOLERANCE",
    "GRAPH_FILE",
    "INT8_TOLERANCE",
    "RECORD_FILE",
    "ExportedGraph",
    "export_onnx",
    "package",
    "session",
]

GRAPH_FILE, RECORD_FILE, BEGIN_FILE = "graph.onnx", "graph.json", "begin.safetensors"
FLOAT_TOLERANCE = 1e-4
"""Largest difference from torch of a float32 graph, in units of each head's spread over the inputs it is proven on."""
INT8_TOLERANCE = 0.1
"""Root mean square difference of an 8 bit graph, in the same units."""
_OPSET = 17
_PROOF_CALLS = 64
_PROOF_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedGraph:
    """What was written, as graph.json says it."""

    kind: str
    """`windows`: whole windows in; `stream`: one bar in, with the state that is carried."""
    int8: bool
    rows: int
    """N, the windows or streams of a call; fixed in the graph."""
    heads: tuple[str, ...]
    states: tuple[str, ...]
    """Names of the carried tensors; what comes out under `next_NAME` goes in under NAME."""
    error: float
    """Largest (float32) or root mean square (8 bits) difference from torch, in units of the heads' spread."""
    spec: dict[str, Any]
    """The model's DataSpec."""
    selection: bool


def export_onnx(
    model: TorchModel, folder: Path, *, stream: bool = False, int8: bool = False, rows: int = 1
) -> ExportedGraph:
    """Write the graph of a fitted model into a new folder.

    Args:
        stream: one bar with carried state, for networks that have one, instead of whole windows.
        int8: matrix products and LSTMs in 8 bits; weights are quantised here, to 7 of them (8 overflow on processors without
            VNNI), activations as they come.
        rows: windows or streams that a call answers for.
    Raises: ConfigError: the folder exists, a package is missing, the network cannot be written as a graph or carries no state, or
        the graph is further from torch than it may be. SchemaError: the model is empty.
    """
    check_new_folder(folder)
    if model.inputs is None:
        raise SchemaError(f"model {model.config.label!r} is empty: fit or load it before it is exported.")
    label, forecaster = model.config.label, model.forecaster.eval()
    inputs = model.inputs
    proven: _Windows | _Stream = (
        _Stream(forecaster, label, rows, inputs.spec.features)
        if stream
        else _Windows(forecaster, rows, inputs.spec.lookback_bars, inputs.spec.features)
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as name:
        made = Path(name, "made")
        made.mkdir()
        inputs.save(made)
        if stream:
            begin = dict(zip(proven.states, proven.example()[1:], strict=True))
            save_file({name: value.contiguous() for name, value in begin.items()}, made / BEGIN_FILE)
        path = made / GRAPH_FILE
        _write(proven, path, label)
        if int8:
            _quantise(path, Path(name))
        error = _error(proven, session(path), int8=int8)
        most, kind = (INT8_TOLERANCE, "8 bit") if int8 else (FLOAT_TOLERANCE, "float32")
        if not error <= most:
            raise ConfigError(
                f"the {kind} graph of {label!r} differs from torch by {error:.2g} of its answers' spread, more than {most}. "
                f"{'Export it without --int8.' if int8 else 'Serve it by torch.'}"
            )
        graph = ExportedGraph(
            kind="stream" if stream else "windows", int8=int8, rows=rows, heads=proven.heads, states=proven.states, error=error,
            spec=model.spec.to_dict(), selection=inputs.selection is not None,
        )  # fmt: skip
        (made / RECORD_FILE).write_text(json.dumps(asdict(graph), indent=1))
        made.rename(folder)
    return graph


class _Graph(nn.Module, ABC):
    """What is traced: tensors in, tensors out, in fixed orders."""

    heads: tuple[str, ...]
    states: tuple[str, ...] = ()

    def __init__(self, forecaster: ScaledForecaster) -> None:
        super().__init__()
        self.forecaster = forecaster
        self.eval()  # the exporter gives every part the mode of the whole, in which it leaves it

    @abstractmethod
    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the shapes that the graph is traced with."""

    def calls(self) -> list[Tensor]:
        """Inputs that the graph is proven on, one after the other."""
        draw = torch.Generator().manual_seed(_PROOF_SEED)
        shape = self.example()[0].shape
        return [torch.randn(shape, generator=draw) for _ in range(_PROOF_CALLS)]


class _Windows(_Graph):
    def __init__(self, forecaster: ScaledForecaster, rows: int, bars: int, features: int) -> None:
        super().__init__(forecaster)
        self.shape = (rows, bars, features)
        with torch.inference_mode():
            self.heads = tuple(forecaster.answer(self.example()[0]))

    def example(self) -> tuple[Tensor, ...]:
        return (torch.zeros(self.shape),)

    def forward(self, x_NLG: Tensor) -> tuple[Tensor, ...]:
        answer = self.forecaster.answer(x_NLG)
        return tuple(answer[name] for name in self.heads)


class _Stream(_Graph):
    def __init__(self, forecaster: ScaledForecaster, label: str, rows: int, features: int) -> None:
        super().__init__(forecaster)
        network = forecaster.network
        if not isinstance(network, StreamingNetwork):
            raise ConfigError(
                f"model {label!r} carries no state from bar to bar ({type(network).__name__}); export it without --stream, or use "
                "hybrid or xlstm."
            )
        network.check_streams()
        self.network: StreamingNetwork = network
        with torch.inference_mode():
            like_NG = torch.zeros(rows, features)
            leaves, self.tree = pytree.tree_flatten(network.begin(like_NG))
            heads, _ = network.step(like_NG, pytree.tree_unflatten(leaves, self.tree))
            self.heads = tuple(forecaster.in_natural_units(forecaster.monotone(heads)))
        self.begin = (like_NG, *(leaf.clone() for leaf in leaves))
        self.states = tuple(f"state_{i}" for i in range(len(leaves)))

    def example(self) -> tuple[Tensor, ...]:
        return self.begin

    def forward(self, x_NG: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        heads, state = self.network.step(x_NG, pytree.tree_unflatten(list(leaves), self.tree))
        answer = self.forecaster.in_natural_units(self.forecaster.monotone(heads))
        return (*(answer[name] for name in self.heads), *pytree.tree_flatten(state)[0])


def _write(graph: _Graph, path: Path, label: str) -> None:
    package("onnx")
    names = ["x", *graph.states]
    answers = [*graph.heads, *(f"next_{name}" for name in graph.states)]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator for a whole layer, which no graph has
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of the exporter's age and of what tracing fixes: shapes, which are fixed here
            torch.onnx.export(
                graph,
                graph.example(),
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=names,
                output_names=answers,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ConfigError(
            f"the network of {label!r} cannot be written as an ONNX graph: {str(error).splitlines()[0]:.200} Serve it by torch."
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _quantise(path: Path, work: Path) -> None:
    quantization = package("onnxruntime.quantization")
    whole = work / "float.onnx"
    path.rename(whole)
    quantization.quantize_dynamic(
        whole, path, weight_type=quantization.QuantType.QInt8, per_channel=True, reduce_range=True,
        op_types_to_quantize=["MatMul", "LSTM"],
    )  # fmt: skip


def session(path: Path, *, threads: int = 1) -> Any:
    """ONNX Runtime's session of a graph, on the CPU."""
    runtime = package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _error(graph: _Graph, made: Any, *, int8: bool) -> float:
    """How far the graph is from torch over a run of calls, each with its own carried state, in units of every head's spread."""
    known = {value.name for value in made.get_inputs()}
    ours = theirs = graph.example()[1:]
    differences: list[list[Tensor]] = []
    values: list[list[Tensor]] = []
    H = len(graph.heads)
    for x in graph.calls():
        with torch.inference_mode():
            right = graph(x, *theirs)
        fed = {"x": x.numpy(), **{n: v.numpy() for n, v in zip(graph.states, ours, strict=True) if n in known}}
        left = [torch.from_numpy(np.asarray(value)) for value in made.run(None, fed)]
        ours, theirs = tuple(left[H:]), right[H:]
        differences.append([(a - b) for a, b in zip(left[:H], right[:H], strict=True)])
        values.append(list(right[:H]))
    worst = 0.0
    for head in range(H):
        difference = torch.stack([row[head] for row in differences]).double()
        value = torch.stack([row[head] for row in values]).double()
        spread = float(value.std()) or 1.0  # a head that always says the same
        size = float(difference.square().mean().sqrt()) if int8 else float(difference.abs().max())
        worst = max(worst, size / spread)
    return worst


def package(name: str) -> Any:
    """Raises: ConfigError: the extra is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("onnx", "onnxruntime"):
            raise
        raise ConfigError(f"ONNX graphs need the package {error.name}: pip install 'quantfleet[onnx]'.") from error
