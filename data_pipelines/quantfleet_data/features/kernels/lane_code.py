"""Machine code for panels: one loop over bars, LANES symbols side by side in a register.

Averages need no turning here, and results are written as float32: the sixty indicators of 500 symbols of 5,000 bars
take 44 ns a bar; `series_code`, run on one symbol after the other, takes 61 before its float64 results are rounded (Zen 4,
one core). That is why panels have code of their own. Both are written by `emit.Body` with the same operations and have the
same bits.

Memory is laid out in lines of LANES doubles, one a symbol:
    ring of a node: its last bars, a power of two of them; bar t stands in line t modulo that number. The line about to be
        overwritten is read first. Recursive nodes have one more line, for what they carry.
    input tile: TILE_BARS lines an input, filled by turning LANES columns by a quarter.
    output tile: TILE_BARS lines of float32 a feature, turned back and written as one cache line a symbol and feature.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from quantfleet_data.features.kernels.codes import LANES, TILE_BARS
from quantfleet_data.features.kernels.emit import (
    ADDRESS,
    LINE,
    WHOLE,
    Body,
    Builder,
    Value,
    at,
    fetch_early,
    load_line,
    machine_code,
    new_module,
    past_caches,
    repeat,
    splat,
    store_line,
    turned,
    whole,
)
from quantfleet_data.features.kernels.graph import Node
from quantfleet_data.features.kernels.lane_ops import DOUBLE, DOUBLES, constant
from quantfleet_data.features.kernels.order import check_outputs, halo_bars, one_by_one, taken, warm_bars

__all__ = ["LaneCode", "compile_lanes"]

_FLOAT = ir.FloatType()
_FLOATS, _CACHE_LINE = ir.VectorType(_FLOAT, LANES), ir.VectorType(_FLOAT, TILE_BARS)
_FLOAT_LINE = 4 * LANES  # bytes
_AHEAD_BARS = 4 * TILE_BARS
"""Inputs are asked for so early: more columns are read at once than the processor follows by itself."""


@dataclass(frozen=True, eq=False, slots=True)
class LaneCode:
    """Compiled code and what it needs to be called. Read-only, shared by threads; the memory it works in is the caller's."""

    inputs: tuple[str, ...]
    features: int
    """Rows of the panel that it needs."""
    state_bytes: int
    """Rings and what is carried; zeros at the start of a history."""
    input_bytes: int
    output_bytes: int
    run: Callable[..., None]
    """(state, inputs, bars, outs, strides, nowhere, input tile, output tile), addresses of memory on cache lines.

    Runs the whole histories of LANES symbols. inputs: LANES addresses of doubles an input, one after the other. bars: of
    each lane; a lane of none reads the first bar of its inputs and writes nothing. outs: addresses of the cache lines of
    feature row 0. strides: floats between two rows. Every begun tile is written, NaN after a symbol's last bar; what has
    no place is written to `nowhere`, one cache line.
    """
    engine: Any
    """Owns the code."""


def compile_lanes(outputs: Sequence[tuple[Node, int]], rows: Sequence[int]) -> LaneCode:
    """Compile the outputs, each a node and the first bar at which it is defined (NaN before), and the row it stands in.

    Raises: ConfigError: a node is not defined that early, or no bar column is read.
    """
    check_outputs(outputs)
    code = _PanelModule(outputs, rows)
    engine = machine_code(code.module)
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 8)
    return LaneCode(
        inputs=tuple(code.inputs),
        features=max(rows) + 1,
        state_bytes=code.state_bytes,
        input_bytes=len(code.inputs) * TILE_BARS * LINE,
        output_bytes=len(rows) * TILE_BARS * _FLOAT_LINE,
        run=kind(engine.get_function_address("run")),
        engine=engine,
    )


class _PanelModule:
    """The code, and where things stand in the state, in bytes."""

    def __init__(self, outputs: Sequence[tuple[Node, int]], rows: Sequence[int]) -> None:
        self.steps = one_by_one([node for node, _ in outputs])
        self.halos = halo_bars(self.steps)
        self.takes = taken(outputs)
        self.warm_bars = warm_bars(outputs, self.steps)
        self.rows = rows
        self.inputs = [node.name for (node,) in self.steps if node.op == "input"]
        self.rings: dict[Node, tuple[int, int]] = {}
        """Place and bars."""
        self.carried: dict[Node, int] = {}
        self.state_bytes = 0
        for (node,) in self.steps:
            if node in self.halos:
                bars = 1 << (self.halos[node] - 1).bit_length()
                self.rings[node] = self._claim(bars), bars
            if node.op in ("ema", "adaptive", "since_midnight"):
                self.carried[node] = self._claim(1)
        self.module = new_module()
        self.row_table = ir.GlobalVariable(self.module, ir.ArrayType(WHOLE, len(rows)), "rows")
        self.row_table.global_constant = True
        self.row_table.initializer = ir.Constant(self.row_table.value_type, list(rows))
        self._function()

    def _claim(self, lines: int) -> int:
        place = self.state_bytes
        self.state_bytes += lines * LINE
        return place

    def _function(self) -> None:
        run = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [ADDRESS] * 8), "run")
        state, inputs, bars, outs, strides, nowhere, input_tile, output_tile = run.args
        for memory in (state, input_tile, output_tile):
            memory.add_attribute("noalias")
        b = ir.IRBuilder(run.append_basic_block("entry"))
        ends = self._lanes(b, bars, WHOLE)
        targets = list(zip(self._lanes(b, outs, _FLOAT.as_pointer()), self._lanes(b, strides, WHOLE), strict=True))
        shortest, longest = ends[0], ends[0]
        for end in ends[1:]:
            shortest = b.select(b.icmp_unsigned("<", end, shortest), end, shortest)
            longest = b.select(b.icmp_unsigned(">", end, longest), end, longest)
        for tile in repeat(b, b.udiv(b.add(longest, whole(TILE_BARS - 1)), whole(TILE_BARS))):
            start = b.mul(tile, whole(TILE_BARS))
            is_whole = b.icmp_unsigned("<=", b.add(start, whole(TILE_BARS)), shortest)
            with b.if_else(is_whole) as (every_bar, some_bars):
                with every_bar:
                    self._read(b, inputs, input_tile, start)
                with some_bars:
                    self._read_some(b, inputs, bars, input_tile, start)
            with b.if_else(b.icmp_unsigned(">=", start, whole(self.warm_bars))) as (hot, warming):
                for branch, warm in ((hot, True), (warming, False)):
                    with branch:
                        for i in repeat(b, whole(TILE_BARS)):
                            memories = (state, input_tile, output_tile)
                            _Bar(self, b, memories, i, b.add(start, i), warm=warm).emit(self.steps)
            with b.if_else(is_whole) as (every_bar, some_bars):
                with every_bar:
                    self._write(b, targets, output_tile, start, None)
                with some_bars:
                    self._write(b, targets, output_tile, start, (ends, b.bitcast(nowhere, _FLOAT.as_pointer())))
        b.ret_void()

    def _lanes(self, b: Builder, table: Value, kind: Any) -> list[Value]:
        entries = b.bitcast(table, kind.as_pointer())
        return [b.load(b.gep(entries, [whole(lane)])) for lane in range(LANES)]

    def _read(self, b: Builder, inputs: Value, tile: Value, start: Value) -> None:
        table = b.bitcast(inputs, DOUBLE.as_pointer().as_pointer())
        for k in range(len(self.inputs)):
            columns = [b.load(b.gep(table, [whole(k * LANES + lane)])) for lane in range(LANES)]
            for first in range(0, TILE_BARS, LANES):
                place = b.add(start, whole(first))
                for x in columns:
                    fetch_early(b, b.gep(x, [b.add(place, whole(_AHEAD_BARS))]))
                read = [b.load(b.bitcast(b.gep(x, [place]), DOUBLES.as_pointer()), align=8) for x in columns]
                for bar, line in enumerate(turned(b, read, LANES)):
                    store_line(b, line, tile, whole((k * TILE_BARS + first + bar) * LINE))

    def _read_some(self, b: Builder, inputs: Value, bars: Value, tile: Value, start: Value) -> None:
        """A symbol's last bar stands for those after it."""
        columns, ends = b.bitcast(inputs, DOUBLE.as_pointer().as_pointer()), b.bitcast(bars, WHOLE.as_pointer())
        for number in repeat(b, whole(len(self.inputs) * LANES)):
            column, lane = b.load(b.gep(columns, [number])), b.urem(number, whole(LANES))
            end = b.load(b.gep(ends, [lane]))
            last = b.select(b.icmp_unsigned(">", end, whole(0)), b.sub(end, whole(1)), whole(0))
            base = b.add(b.mul(b.udiv(number, whole(LANES)), whole(TILE_BARS * LINE)), b.mul(lane, whole(8)))
            for i in repeat(b, whole(TILE_BARS)):
                bar = b.add(start, i)
                value = b.load(b.gep(column, [b.select(b.icmp_unsigned("<", bar, last), bar, last)]))
                b.store(value, at(b, tile, b.add(base, b.mul(i, whole(LINE))), DOUBLE))

    def _write(
        self,
        b: Builder,
        targets: Sequence[tuple[Value, Value]],
        tile: Value,
        start: Value,
        limits: tuple[Sequence[Value], Value] | None,
    ) -> None:
        """A quarter turn of each feature's tile, from LANES registers of 2 bars x LANES symbols to LANES of 16 bars.

        Args:
            limits: where symbols end, and what is written to after that; None: no symbol ends in this tile.
        """
        bars = [place % 2 * LANES + place // 2 for place in range(TILE_BARS)]
        targets = [(b.gep(first, [start]), stride) for first, stride in targets]
        kept: list[Value] = []
        if limits is not None:
            ends, nowhere = limits
            numbers = ir.Constant(ir.VectorType(WHOLE, TILE_BARS), list(range(TILE_BARS)))
            for lane, (first, stride) in enumerate(targets):
                begun = b.icmp_unsigned("<", start, ends[lane])
                targets[lane] = b.select(begun, first, nowhere), b.select(begun, stride, whole(0))
                left = b.select(begun, b.sub(ends[lane], start), whole(0))
                kept.append(b.icmp_unsigned("<", numbers, splat(b, left, TILE_BARS)))
        nans = ir.Constant(_CACHE_LINE, [float("nan")] * TILE_BARS)
        for number in repeat(b, whole(len(self.rows))):
            row = b.load(b.gep(self.row_table, [whole(0), number]))
            base = b.gep(tile, [b.mul(number, whole(TILE_BARS * _FLOAT_LINE))])
            read = [b.load(at(b, base, whole(k * 2 * _FLOAT_LINE), _CACHE_LINE), align=64) for k in range(LANES)]
            for lane, line in enumerate(turned(b, read, TILE_BARS, bars)):
                value = b.select(kept[lane], line, nans) if kept else line
                first, stride = targets[lane]
                target = b.bitcast(b.gep(first, [b.mul(stride, row)]), _CACHE_LINE.as_pointer())
                past_caches(b, b.store(value, target, align=64))


class _Bar(Body):
    """One bar of LANES symbols. `warm`: every average has begun and every output is defined."""

    def __init__(
        self, code: _PanelModule, b: Builder, memory: tuple[Value, Value, Value], i: Value, bar: Value, *, warm: bool
    ) -> None:
        super().__init__(b, code.halos, code.takes)
        self.code, self.bar, self.warm = code, bar, warm
        self.state, self.input_tile, self.output_tile = memory
        self.line = b.mul(i, whole(LINE))
        self.float_line = b.mul(i, whole(_FLOAT_LINE))
        self.read: dict[tuple[Node, int], Value] = {}
        self.offsets: dict[tuple[int, int], Value] = {}

    def input(self, node: Node) -> Value:
        base = whole(self.code.inputs.index(node.name) * TILE_BARS * LINE)
        return load_line(self.b, self.b.gep(self.input_tile, [base]), self.line)

    def older(self, node: Node, lag: int) -> Value:
        if (node, lag) not in self.read:
            self.read[node, lag] = load_line(self.b, *self._place(node, lag))
        return self.read[node, lag]

    def keep(self, node: Node, value: Value) -> Value:
        bars = self.code.rings[node][1]
        if self.halos[node] == bars:
            self.older(node, bars)  # its line is overwritten now
        store_line(self.b, value, *self._place(node, 0))
        return value

    def _place(self, node: Node, lag: int) -> tuple[Value, Value]:
        b, (place, bars) = self.b, self.code.rings[node]
        key = (bars, lag % bars)
        if key not in self.offsets:
            self.offsets[key] = b.mul(b.and_(b.sub(self.bar, whole(lag)), whole(bars - 1)), whole(LINE))
        return b.gep(self.state, [whole(place)]), self.offsets[key]

    def take(self, value: Value, number: int, first: int) -> None:
        b = self.b
        if not self.warm:
            value = b.select(self._from(first), value, constant(float("nan")))
        base = b.gep(self.output_tile, [whole(number * TILE_BARS * _FLOAT_LINE)])
        b.store(b.fptrunc(value, _FLOATS), at(b, base, self.float_line, _FLOATS), align=_FLOAT_LINE)

    def averages(self, step: Sequence[Node]) -> list[Value]:
        (node,) = step
        b, x, (alpha, seeds) = self.b, self.operand(node.operands[0]), node.constants
        before = self._carried(node)
        value = b.fadd(before, b.fmul(constant(alpha), b.fsub(x, before)))
        if not self.warm:  # the sum of the seeds, their mean at the last of them, then the recursion
            begins = node.operands[0][0].first
            last = begins + int(seeds) - 1
            total = b.fadd(before, x)
            seed = b.select(b.icmp_unsigned("==", self.bar, whole(last)), b.fdiv(total, constant(seeds)), total)
            seed = b.select(self._from(begins), seed, before)
            value = b.select(self._from(last + 1), value, seed)
        return [self._carry(node, value)]

    def adaptive(self, node: Node) -> Value:
        b, (x, rate) = self.b, [self.operand(operand) for operand in node.operands]
        before = self._carried(node)
        value = b.fadd(before, b.fmul(rate, b.fsub(x, before)))
        return self._carry(node, value if self.warm else b.select(self._from(int(node.constants[0])), value, x))

    def since_midnight(self, node: Node) -> Value:
        b, (x, day, yesterday) = self.b, [self.operand(operand) for operand in node.operands]
        kept = b.select(b.fcmp_ordered("==", day, yesterday), self._carried(node), constant(0.0))
        return self._carry(node, b.fadd(kept, x))

    def _carried(self, node: Node) -> Value:
        return load_line(self.b, self.state, whole(self.code.carried[node]))

    def _carry(self, node: Node, value: Value) -> Value:
        store_line(self.b, value, self.state, whole(self.code.carried[node]))
        return value

    def _from(self, first: int) -> Value:
        return self.b.icmp_unsigned(">=", self.bar, whole(first))
