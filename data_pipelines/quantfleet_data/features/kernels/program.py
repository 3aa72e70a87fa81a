"""Programs: formulas put in order and compiled for one symbol, and their runs, which can be stopped and taken up again."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.errors import DataError
from quantfleet_data.features.kernels.codes import LANES, LARGE_BYTES
from quantfleet_data.features.kernels.graph import Node
from quantfleet_data.features.kernels.memory import aligned_bytes
from quantfleet_data.features.kernels.order import check_outputs, halo_bars, taken, together, warm_bars
from quantfleet_data.features.windows import Array

__all__ = ["Program", "Runner", "plan"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Program:
    """Compiled formulas. Read-only, shared by threads; the memory they run in is the runner's."""

    inputs: tuple[str, ...]
    """Bar columns it is fed, `day` among them."""
    features: int
    nodes: int
    """What is computed at every bar."""
    size: int
    """Doubles it works in: what recursive nodes carry, then the rings of nodes that are looked back on."""
    carried: int
    place: Indices
    """Of every older bar a state holds, node by node and oldest first: where its node's ring begins,"""
    ring_bars: Indices
    """how many bars that ring holds,"""
    back: Indices
    """and how many bars before the next one it is: bar t stands at place + t modulo ring_bars."""
    identity: float
    """Of the formulas, wherever they stand: a whole number that heads every state."""
    run: Callable[..., None]
    engine: Any
    """Owns the code."""

    @property
    def state_size(self) -> int:
        """Numbers that describe a stopped run."""
        return 2 + self.carried + self.back.size


class Runner:
    """One run of a program: its memory, and where it stands. Not thread-safe; make one per thread."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.seen = 0
        self._memory = aligned_bytes(8 * program.size).view(np.float64)
        self._tile = aligned_bytes(8 * LANES * program.features)
        self._last_inputs: Array = np.zeros((len(program.inputs), LANES))
        self._last_values: Array = np.zeros((program.features, LANES))
        self.reset()

    def reset(self) -> None:
        """Forget the history: the next bars are the first of a symbol."""
        self.seen = 0
        self._memory[:] = 0.0

    def state(self) -> Array:
        """What the next bars need to know, flat."""
        head = [self.program.identity, float(self.seen)]
        return np.concatenate([head, self._memory[: self.program.carried], self._memory[self._older()]])

    def restore(self, state: npt.NDArray[np.float64]) -> None:
        """Stand where `state` was taken.

        Raises: DataError: it is of another program.
        """
        program = self.program
        if state.shape != (program.state_size,) or state[0] != program.identity:
            raise DataError(
                f"a state of shape {state.shape} was handed to formulas that carry ({program.state_size},), or it is "
                "of other formulas; pass back what the same features returned, or None and the whole history."
            )
        self.reset()
        self.seen = int(state[1])
        self._memory[: program.carried] = state[2 : 2 + program.carried]
        self._memory[self._older()] = state[2 + program.carried :]

    def _older(self) -> Indices:
        place: Indices = self.program.place + (self.seen - self.program.back) % self.program.ring_bars
        return place

    def feed(self, columns: Mapping[str, Array], out_FT: npt.NDArray[np.float64], column: int = 0) -> None:
        """Run over the next bars.

        Args:
            columns: contiguous float64 of shape (T,) for each of `program.inputs`.
            out_FT: float64, each row contiguous; [:, column : column + T] is written. A result too large for the caches
                is written past them where bars 0, LANES, ... stand on cache lines, see `memory.empty_rows`.
        Raises: ValueError: they do not fit.
        """
        inputs = [columns[name] for name in self.program.inputs]
        bars = inputs[0].size
        self._check(inputs, out_FT, column)
        done = 0
        while done < bars:
            low = self.seen % LANES
            lines = (bars - done) // LANES
            if low == 0 and lines:
                step = lines * LANES
                self._run(inputs, done, out_FT, column + done, lines, 0, LANES)
            else:  # copied: whole lines are read and written, and these are not the caller's
                step = min(LANES - low, bars - done)
                for copy, x in zip(self._last_inputs, inputs, strict=True):
                    copy[low : low + step] = x[done : done + step]
                self._run(list(self._last_inputs), 0, self._last_values, 0, 1, low, low + step)
                out_FT[:, column + done : column + done + step] = self._last_values[:, low : low + step]
            done += step
            self.seen += step

    def _run(
        self, inputs: Sequence[Array], start: int, out_FT: Array, column: int, lines: int, low: int, high: int
    ) -> None:
        addresses = np.array([x.ctypes.data + 8 * start for x in inputs], dtype=np.uint64)
        out, stride = out_FT.ctypes.data + 8 * column, out_FT.strides[0]
        large = out_FT.nbytes > LARGE_BYTES and out % 64 == 0 and stride % 64 == 0
        self.program.run(
            self._memory.ctypes.data,
            self.seen - low,
            lines,
            low,
            high,
            addresses.ctypes.data,
            out,
            stride // 8,
            large,
            self._tile.ctypes.data,
        )

    def _check(self, inputs: Sequence[Array], out_FT: Array, column: int) -> None:
        shapes = [x.shape for x in inputs]
        fits = all(x.shape == (inputs[0].size,) and x.dtype == np.float64 and x.flags.c_contiguous for x in inputs)
        rows = out_FT.ndim == 2 and out_FT.dtype == np.float64 and out_FT.strides[1] == 8 and out_FT.flags.writeable
        if not fits or not rows or len(out_FT) != self.program.features or out_FT.shape[1] < column + inputs[0].size:
            raise ValueError(
                f"inputs {shapes} do not fit {out_FT.dtype} {out_FT.shape} from column {column} on; contiguous float64 "
                f"columns of one length and a row for each of {self.program.features} features are needed."
            )


def plan(outputs: Sequence[tuple[Node, int]]) -> Program:
    """Compile the outputs, each a node and the first bar at which it is defined (NaN before).

    Raises: ConfigError: a node is not defined that early, or no bar column is read.
    """
    from quantfleet_data.features.kernels.emit import machine_code  # loads the compiler
    from quantfleet_data.features.kernels.series_code import SeriesModule

    check_outputs(outputs)
    steps = together([node for node, _ in outputs])
    halos = halo_bars(steps)
    code = SeriesModule(steps, halos, taken(outputs), warm_bars(outputs, steps))
    engine = machine_code(code.module)
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_uint64] * 10)
    older = [(*code.rings[node], bars) for node, bars in halos.items()]
    none: Indices = np.zeros(0, dtype=np.int64)
    return Program(
        inputs=tuple(code.inputs),
        features=len(outputs),
        nodes=sum(len(step) for step in steps),
        size=code.size,
        carried=code.carried_size,
        place=np.concatenate([none, *(np.full(bars, place) for place, _, bars in older)]),
        ring_bars=np.concatenate([none, *(np.full(bars, lines * LANES) for _, lines, bars in older)]),
        back=np.concatenate([none, *(np.arange(bars, 0, -1) for _, _, bars in older)]),
        identity=_identity(steps),
        run=kind(engine.get_function_address("run")),
        engine=engine,
    )


def _identity(steps: Sequence[Sequence[Node]]) -> float:
    """The same for the same formulas in the same steps, in every process; exact as a double."""
    numbers = {node: number for number, node in enumerate(node for step in steps for node in step)}
    lines = (
        f"{len(step)} {n.op} {[(numbers[o], lag) for o, lag in n.operands]} {n.constants} {n.first} {n.name}"
        for step in steps
        for n in step
    )
    digest = hashlib.blake2b("\n".join([str(LANES), *lines]).encode(), digest_size=6).digest()
    return float(int.from_bytes(digest, "little"))
