"""What writing machine code for a set has in common, whatever stands in the lanes of a register.

The code is plain IEEE arithmetic, without fast-math flags and without fused multiply-adds, each operation as `lane_ops`
has it: a value has the same bits in a series and in a panel.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from llvmlite import binding, ir

from quantfleet_data.features.kernels.codes import LANES
from quantfleet_data.features.kernels.graph import Node
from quantfleet_data.features.kernels.lane_ops import DOUBLES, ELEMENTWISE, absolute, constant

__all__ = [
    "ADDRESS",
    "LINE",
    "WHOLE",
    "Body",
    "Builder",
    "Value",
    "at",
    "fetch_early",
    "load_line",
    "machine_code",
    "new_module",
    "past_caches",
    "places",
    "repeat",
    "splat",
    "store_line",
    "turned",
    "whole",
]

WHOLE, _SHORT = ir.IntType(64), ir.IntType(32)
ADDRESS = ir.IntType(8).as_pointer()
LINE = 8 * LANES
"""Bytes of a register."""

Value: TypeAlias = Any
Builder: TypeAlias = Any


class Body:
    """Writes one turn of a loop: every node once, for the bars or symbols in the lanes."""

    def __init__(
        self, builder: Builder, halos: Mapping[Node, int], takes: Mapping[Node, Sequence[tuple[int, int]]]
    ) -> None:
        self.b, self.halos, self.takes = builder, halos, takes
        self.values: dict[Node, Value] = {}

    def emit(self, steps: Sequence[Sequence[Node]]) -> None:
        for step in steps:
            self.values.update(zip(step, self._step(step), strict=True))
            for node in step:
                if node in self.halos:
                    self.values[node] = self.keep(node, self.values[node])
                for number, first in self.takes.get(node, ()):
                    self.take(self.values[node], number, first)

    def operand(self, operand: tuple[Node, int]) -> Value:
        node, lag = operand
        return self.older(node, lag) if lag else self.values[node]

    @abstractmethod
    def input(self, node: Node) -> Value: ...

    @abstractmethod
    def older(self, node: Node, lag: int) -> Value:
        """A node's value `lag` bars ago."""

    @abstractmethod
    def keep(self, node: Node, value: Value) -> Value:
        """Remember the value for later bars; return what later nodes shall read."""

    @abstractmethod
    def take(self, value: Value, number: int, first: int) -> None:
        """Hand the value out as feature `number`, NaN before bar `first`."""

    @abstractmethod
    def averages(self, step: Sequence[Node]) -> list[Value]: ...

    @abstractmethod
    def adaptive(self, node: Node) -> Value: ...

    @abstractmethod
    def since_midnight(self, node: Node) -> Value: ...

    def _step(self, step: Sequence[Node]) -> list[Value]:
        node = step[0]
        if node.op == "ema":
            return self.averages(step)
        if node.op == "zero":
            return [constant(0.0)]
        own = {
            "input": self.input,
            "deviation": self._deviation,
            "adaptive": self.adaptive,
            "since_midnight": self.since_midnight,
        }
        if node.op in own:
            return [own[node.op](node)]
        operands = [self.operand(operand) for operand in node.operands]
        return [ELEMENTWISE[node.op](self.b, operands, [constant(c) for c in node.constants])]

    def _deviation(self, node: Node) -> Value:
        """Sum of |x - mean| over the window, oldest first, four bars at a time."""
        b, x, mean = self.b, node.operands[0][0], self.operand(node.operands[1])
        lags = range(int(node.constants[0]) - 1, -1, -1)
        distances = [absolute(b, b.fsub(self.operand((x, lag)), mean)) for lag in lags]
        fours = len(distances) // 4 * 4
        total = constant(0.0)
        for k in range(0, fours, 4):
            near = b.fadd(distances[k], distances[k + 1])
            total = b.fadd(total, b.fadd(near, b.fadd(distances[k + 2], distances[k + 3])))
        for distance in distances[fours:]:
            total = b.fadd(total, distance)
        return total


def new_module() -> Any:
    module = ir.Module(name="features")
    module.triple = binding.get_process_triple()
    return module


def machine_code(module: Any) -> Any:
    """Compile for this very processor. Returns the engine that owns the code."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    machine = binding.Target.from_triple(module.triple).create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=2
    )
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(parsed, passes)
    engine = binding.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return engine


def whole(n: int) -> Value:
    return ir.Constant(WHOLE, n)


def at(b: Builder, base: Value, offset: Value, kind: Any) -> Value:
    """The address `offset` bytes after `base`, of a `kind`."""
    return b.bitcast(b.gep(base, [offset]), kind.as_pointer())


def repeat(b: Builder, times: Value) -> Iterator[Value]:
    """Write a loop: used in `for i in repeat(b, times)`, whose body is written once, for a number 0 <= i < times."""
    before, loop, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
    b.cbranch(b.icmp_unsigned(">", times, whole(0)), loop, after)
    b.position_at_end(loop)
    i = b.phi(WHOLE)
    i.add_incoming(whole(0), before)
    yield i
    following = b.add(i, whole(1))
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_unsigned("<", following, times), loop, after)
    b.position_at_end(after)


def past_caches(b: Builder, store: Any) -> None:
    """Make a store of a whole, aligned cache line go past the caches, which a large result would only empty.

    An ordinary store first reads the line it will overwrite. A part of a line costs three times a whole one.
    """
    store.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(_SHORT, 1)]))


def fetch_early(b: Builder, address: Value) -> None:
    """Ask for a cache line that will be read; an address outside of all memory is ignored."""
    name = "llvm.prefetch.p0"
    kind = ir.FunctionType(ir.VoidType(), [ADDRESS, _SHORT, _SHORT, _SHORT])
    function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    read, keep, data = (ir.Constant(_SHORT, n) for n in (0, 3, 1))
    b.call(function, [b.bitcast(address, ADDRESS), read, keep, data])


def turned(b: Builder, rows: Sequence[Value], width: int, order: Sequence[int] | None = None) -> list[Value]:
    """Turn LANES registers of `width` elements: element bits 0-2 and the register's number change places, bit by bit.

    `order` is the order of the elements in the result.
    """
    order = range(width) if order is None else order
    for bit in (1, 2, 4):
        done = list(rows)
        low = [j if not j & bit else width + (j ^ bit) for j in range(width)]
        high = [j | bit if not j & bit else width + j for j in range(width)]
        if bit == 4:
            low, high = [low[j] for j in order], [high[j] for j in order]
        for i in range(LANES):
            if not i & bit:
                pair = rows[i], rows[i | bit]
                done[i], done[i | bit] = (b.shuffle_vector(*pair, places(chosen)) for chosen in (low, high))
        rows = done
    return list(rows)


def places(chosen: Sequence[int]) -> Value:
    """Which elements of two registers, as `shuffle_vector` wants them."""
    return ir.Constant(ir.VectorType(_SHORT, len(chosen)), list(chosen))


def splat(b: Builder, value: Value, lanes: int = LANES) -> Value:
    """A scalar in every lane."""
    kind = ir.VectorType(value.type, lanes)
    first = b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_SHORT, 0))
    return b.shuffle_vector(first, first, places([0] * lanes))


def load_line(b: Builder, base: Value, offset: Value) -> Value:
    return b.load(at(b, base, offset, DOUBLES), align=LINE)


def store_line(b: Builder, value: Value, base: Value, offset: Value) -> None:
    b.store(value, at(b, base, offset, DOUBLES), align=LINE)
