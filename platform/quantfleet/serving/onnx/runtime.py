"""Exported graphs that answer: raw features in, heads in natural units out, by ONNX Runtime, on one thread unless more are given.

Shapes: N windows or streams, L look-back bars, F features given, H horizons.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from quantfleet.contracts import DataSpec
from quantfleet.errors import SchemaError, nearest
from quantfleet.serving.onnx.export import BEGIN_FILE, GRAPH_FILE, RECORD_FILE, ExportedGraph, package, session
from quantfleet.serving.streaming import ScaledBars
from quantfleet.transforms import InputTransform

__all__ = ["OnnxStreams", "OnnxWindows"]

Array = npt.NDArray[np.float32]


def _open(folder: Path, kind: str) -> tuple[ExportedGraph, InputTransform]:
    """Raises: SchemaError: the folder holds no graph of this kind."""
    path = folder / RECORD_FILE
    try:
        record = json.loads(path.read_text())
        graph = ExportedGraph(**{**record, "heads": tuple(record["heads"]), "states": tuple(record["states"])})
        spec = DataSpec.from_dict(graph.spec)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SchemaError(f"{path} does not describe an exported graph: {error}. Export the model again.") from error
    if graph.kind != kind:
        raise SchemaError(
            f"{folder} holds a graph of {graph.kind}, not of {kind}. Export the model {'with' if kind == 'stream' else 'without'} "
            "--stream."
        )
    return graph, InputTransform.load(folder, spec, scaler=True, selection=graph.selection)


class OnnxWindows:
    """Whole windows. Safe to share between threads. Raises: SchemaError: the folder holds no graph of windows."""

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        self.graph, self.inputs = _open(folder, "windows")
        self._session = session(folder / GRAPH_FILE, threads=threads)

    def answer(self, x_NLF: Array, symbols: Sequence[str]) -> dict[str, Array]:
        """Heads, (N, H) each, as `Forecast` means them. Raises: SchemaError: other windows, or a symbol that is not known."""
        spec = self.inputs.given
        wanted = (self.graph.rows, spec.lookback_bars, spec.features)
        if x_NLF.shape != wanted:
            raise SchemaError(f"windows have shape {x_NLF.shape}; the graph reads {wanted}.")
        made = self._session.run(None, {"x": self.inputs.apply(x_NLF, _symbol_ids(spec, symbols))})
        return dict(zip(self.graph.heads, made, strict=True))


class OnnxStreams:
    """Streams of bars; what they mean is said at `BarStreams`. State goes from one call to the next without being copied: two sets
    of buffers take turns. Not thread-safe.

    Raises: SchemaError: the folder holds no graph of a stream, or of another number of them, or a symbol is not known.
    """

    def __init__(self, folder: Path, symbols: Sequence[str], *, threads: int = 1) -> None:
        self.graph, inputs = _open(folder, "stream")
        if len(symbols) != self.graph.rows:
            raise SchemaError(
                f"the graph carries {self.graph.rows} streams, and {len(symbols)} symbols are given. Export it with --rows "
                f"{len(symbols)}."
            )
        self._bars = ScaledBars(inputs, _symbol_ids(inputs.given, symbols))
        self._session = session(folder / GRAPH_FILE, threads=threads)
        self._bindings: list[Any] = []
        self._bind(load_file(folder / BEGIN_FILE))
        self._turn = 0

    def _bind(self, begin: dict[str, npt.NDArray[Any]]) -> None:
        """Two bindings over the same input and answers; what is state in for one is state out for the other."""
        runtime = package("onnxruntime")
        shape = {value.name: [int(size) for size in value.shape] for value in self._session.get_outputs()}
        read = {value.name for value in self._session.get_inputs()}  # a state that answers do not depend on is left out
        states = [[np.ascontiguousarray(begin[name]).copy() for name in self.graph.states] for _ in range(2)]
        self._x = np.zeros((self.graph.rows, self._bars.inputs.spec.features), np.float32)
        self._answers = {name: np.zeros(shape[name], np.float32) for name in self.graph.heads}
        values = [[runtime.OrtValue.ortvalue_from_numpy(array) for array in arrays] for arrays in states]
        x = runtime.OrtValue.ortvalue_from_numpy(self._x)
        answers = {name: runtime.OrtValue.ortvalue_from_numpy(array) for name, array in self._answers.items()}
        self._held = (states, values, x, answers)
        for turn in range(2):
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("x", x)
            for name, value in answers.items():
                binding.bind_ortvalue_output(name, value)
            for name, before, after in zip(self.graph.states, values[turn], values[1 - turn], strict=True):
                if name in read:
                    binding.bind_ortvalue_input(name, before)
                binding.bind_ortvalue_output(f"next_{name}", after)
            self._bindings.append(binding)

    def push(self, x_SF: Array) -> dict[str, Array] | None:
        """Take in a bar of each stream; heads (S, H); None while the scaler still fills. Raises: as `BarStreams.push`."""
        row_SG = self._bars.push(x_SF)
        if row_SG is None:
            return None
        self._x[:] = row_SG
        self._session.run_with_iobinding(self._bindings[self._turn])
        self._turn = 1 - self._turn
        return {name: array.copy() for name, array in self._answers.items()}


def _symbol_ids(spec: DataSpec, symbols: Sequence[str]) -> npt.NDArray[np.int32]:
    for name in symbols:
        if name not in spec.symbols:
            raise SchemaError(
                f"the model was not fitted on {name!r}.{nearest(name, spec.symbols)} It knows {len(spec.symbols)} symbols."
            )
    return np.array([spec.symbols.index(name) for name in symbols], np.int32)
