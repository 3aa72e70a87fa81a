"""Machine code for one symbol: one loop over its bars, LANES bars side by side in a register.

Bar t of a history always stands in lane t modulo LANES, so a run may stop and go on anywhere: lanes before `low` keep
what they hold, lanes from `high` on are computed and not looked at. Memory is laid out in lines of LANES bars:
    ring of a node: its last lines, a power of two of them; a value some bars ago is cut out of two neighbouring lines.
    averages: up to LANES that do not need each other are turned by a quarter and walked together, one in a lane, since
        one alone would wait for its own last result at every bar.
The sixty indicators of one symbol of a million bars take 55 ns a bar, 480 bytes of results written included (Zen 4, one
core). Compiling them takes half a second, once a process.

There are two bodies: one that tests at every bar whether averages have begun, features are defined and lanes are asked
for, and one for whole lines after all that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llvmlite import ir

from quantfleet_data.features.kernels.codes import LANES
from quantfleet_data.features.kernels.emit import (
    ADDRESS,
    LINE,
    WHOLE,
    Body,
    Builder,
    Value,
    at,
    load_line,
    new_module,
    past_caches,
    places,
    repeat,
    splat,
    store_line,
    turned,
    whole,
)
from quantfleet_data.features.kernels.graph import Node
from quantfleet_data.features.kernels.lane_ops import DOUBLE, DOUBLES, constant

__all__ = ["SeriesModule"]

_SHORT = ir.IntType(32)


class SeriesModule:
    """The code, and where things stand in the state; places count doubles."""

    def __init__(
        self,
        steps: Sequence[Sequence[Node]],
        halos: Mapping[Node, int],
        takes: Mapping[Node, Sequence[tuple[int, int]]],
        warm_bars: int,
    ) -> None:
        self.inputs = [node.name for step in steps for node in step if node.op == "input"]
        self.features = sum(len(taken) for taken in takes.values())
        self.carried: dict[Node, int] = {}
        """Place of the first average of a step, or of the number another recursive node carries."""
        size = 0
        for step in steps:
            if step[0].op in ("ema", "adaptive", "since_midnight"):
                self.carried[step[0]] = size
                size += LANES
        self.carried_size = size
        self.rings: dict[Node, tuple[int, int]] = {}
        """Place and lines of each node that is looked back on."""
        for node, bars in halos.items():
            lines = 1 << (-(-bars // LANES)).bit_length()  # those looked back on and the one being filled
            self.rings[node] = size, lines
            size += lines * LANES
        self.size = size
        self.module = new_module()
        self._function(steps, halos, takes, warm_bars)

    def _function(
        self,
        steps: Sequence[Sequence[Node]],
        halos: Mapping[Node, int],
        takes: Mapping[Node, Sequence[tuple[int, int]]],
        warm_bars: int,
    ) -> None:
        kind = ir.FunctionType(
            ir.VoidType(), [ADDRESS, WHOLE, WHOLE, WHOLE, WHOLE, ADDRESS, ADDRESS, WHOLE, WHOLE, ADDRESS]
        )
        run = ir.Function(self.module, kind, "run")
        state, first, lines, low, high, inputs, outs, stride, large, tile = run.args
        for memory in (state, tile):
            memory.add_attribute("noalias")
        b = ir.IRBuilder(run.append_basic_block("entry"))
        table = b.bitcast(inputs, DOUBLE.as_pointer().as_pointer())
        columns = [b.load(b.gep(table, [whole(k)])) for k in range(len(self.inputs))]
        is_whole = b.and_(b.icmp_unsigned("==", low, whole(0)), b.icmp_unsigned("==", high, whole(LANES)))
        is_large = b.icmp_unsigned("!=", large, whole(0))
        for line in repeat(b, lines):
            begin = b.mul(line, whole(LANES))
            bar = b.add(first, begin)
            is_hot = b.and_(is_whole, b.icmp_unsigned(">=", bar, whole(warm_bars)))
            with b.if_else(is_hot) as (hot, careful):
                for branch, active in ((hot, None), (careful, (low, high))):
                    with branch:
                        _Bars(self, b, halos, takes, state, tile, columns, begin, bar, active).emit(steps)
            out = b.gep(b.bitcast(outs, DOUBLE.as_pointer()), [begin])
            with b.if_else(is_large) as (past, plain):
                for branch, align in ((past, LINE), (plain, 8)):
                    with branch:
                        self._write(b, tile, out, stride, align)
        b.ret_void()

    def _write(self, b: Builder, tile: Value, out: Value, stride: Value, align: int) -> None:
        for number in repeat(b, whole(self.features)):
            target = b.gep(out, [b.mul(number, stride)])
            value = load_line(b, tile, b.mul(number, whole(LINE)))
            store = b.store(value, b.bitcast(target, DOUBLES.as_pointer()), align=align)
            if align == LINE:
                past_caches(b, store)


class _Bars(Body):
    """One line: LANES bars of every node. `active` is the span of lanes asked for, None once all is warm and whole."""

    def __init__(
        self,
        code: SeriesModule,
        b: Builder,
        halos: Mapping[Node, int],
        takes: Mapping[Node, Sequence[tuple[int, int]]],
        state: Value,
        tile: Value,
        columns: Sequence[Value],
        begin: Value,
        bar: Value,
        active: tuple[Value, Value] | None,
    ) -> None:
        super().__init__(b, halos, takes)
        self.code, self.state, self.tile, self.columns, self.begin = code, state, tile, columns, begin
        self.line = b.lshr(bar, whole(LANES.bit_length() - 1))
        self.bar, self.active = bar, active
        self.lines: dict[tuple[Node, int], Value] = {}
        self.cuts: dict[tuple[Node, int], Value] = {}
        if active is not None:
            lanes = ir.Constant(ir.VectorType(WHOLE, LANES), list(range(LANES)))
            self.bars = b.add(splat(b, bar), lanes)
            self.fresh = b.icmp_unsigned(">=", lanes, splat(b, active[0]))
            self.asked = [
                b.and_(b.icmp_unsigned("<=", active[0], whole(j)), b.icmp_unsigned(">", active[1], whole(j)))
                for j in range(LANES)
            ]

    def input(self, node: Node) -> Value:
        column = self.columns[self.code.inputs.index(node.name)]
        return self.b.load(self.b.bitcast(self.b.gep(column, [self.begin]), DOUBLES.as_pointer()), align=8)

    def older(self, node: Node, lag: int) -> Value:
        if (node, lag) not in self.cuts:
            back, lanes = divmod(lag, LANES)
            newer = self._line(node, back)
            self.cuts[node, lag] = newer
            if lanes:
                cut = places(range(LANES - lanes, 2 * LANES - lanes))
                self.cuts[node, lag] = self.b.shuffle_vector(self._line(node, back + 1), newer, cut)
        return self.cuts[node, lag]

    def keep(self, node: Node, value: Value) -> Value:
        if self.active is not None:
            value = self.b.select(self.fresh, value, self._load(node, 0))
        store_line(self.b, value, self.state, self._place(node, 0))
        self.lines[node, 0] = value
        return value

    def take(self, value: Value, number: int, first: int) -> None:
        if self.active is not None:
            value = self.b.select(self._from(first), value, constant(float("nan")))
        store_line(self.b, value, self.tile, whole(number * LINE))

    def averages(self, step: Sequence[Node]) -> list[Value]:
        b = self.b
        place = whole(8 * self.code.carried[step[0]])
        missing = LANES - len(step)
        x = turned(b, [*(self.operand(node.operands[0]) for node in step), *[constant(0.0)] * missing], LANES)
        alphas = ir.Constant(DOUBLES, [*(node.constants[0] for node in step), *[0.0] * missing])
        value, walked = load_line(b, self.state, place), []
        for j in range(LANES):
            following = b.fadd(value, b.fmul(alphas, b.fsub(x[j], value)))
            if self.active is not None:
                following = b.select(self.asked[j], self._begun(step, j, x[j], value, following), value)
            value = following
            walked.append(value)
        store_line(b, value, self.state, place)
        return turned(b, walked, LANES)[: len(step)]

    def _begun(self, step: Sequence[Node], j: int, x: Value, before: Value, value: Value) -> Value:
        """The sum of the seeds, their mean at the last of them, then `value`."""
        b, missing = self.b, LANES - len(step)
        kind = ir.VectorType(WHOLE, LANES)
        seeds = [int(node.constants[1]) for node in step]
        begins = [node.operands[0][0].first for node in step]
        last = ir.Constant(kind, [*(n + k - 1 for n, k in zip(begins, seeds, strict=True)), *[0] * missing])
        bar = splat(b, b.add(self.bar, whole(j)))
        total = b.fadd(before, x)
        mean = b.fdiv(total, ir.Constant(DOUBLES, [float(n) for n in (*seeds, *[1] * missing)]))
        seed = b.select(b.icmp_unsigned("==", bar, last), mean, total)
        seed = b.select(b.icmp_unsigned(">=", bar, ir.Constant(kind, [*begins, *[0] * missing])), seed, before)
        return b.select(b.icmp_unsigned(">", bar, last), value, seed)

    def adaptive(self, node: Node) -> Value:
        b, (x, rate) = self.b, [self.operand(operand) for operand in node.operands]

        def step(j: int, before: Value) -> Value:
            price = b.extract_element(x, ir.Constant(_SHORT, j))
            value = b.fadd(before, b.fmul(b.extract_element(rate, ir.Constant(_SHORT, j)), b.fsub(price, before)))
            if self.active is None:
                return value
            begun = b.icmp_unsigned(">=", b.add(self.bar, whole(j)), whole(int(node.constants[0])))
            return b.select(begun, value, price)

        return self._walk(node, step)

    def since_midnight(self, node: Node) -> Value:
        b, (x, day, yesterday) = self.b, [self.operand(operand) for operand in node.operands]
        same = b.fcmp_ordered("==", day, yesterday)

        def step(j: int, before: Value) -> Value:
            lane = ir.Constant(_SHORT, j)
            kept = b.select(b.extract_element(same, lane), before, ir.Constant(DOUBLE, 0.0))
            return b.fadd(kept, b.extract_element(x, lane))

        return self._walk(node, step)

    def _walk(self, node: Node, step: Any) -> Value:
        b, place = self.b, at(self.b, self.state, whole(8 * self.code.carried[node]), DOUBLE)
        value, walked = b.load(place), ir.Constant(DOUBLES, ir.Undefined)
        for j in range(LANES):
            following = step(j, value)
            value = following if self.active is None else b.select(self.asked[j], following, value)
            walked = b.insert_element(walked, value, ir.Constant(_SHORT, j))
        b.store(value, place)
        return walked

    def _from(self, first: int) -> Value:
        return self.b.icmp_unsigned(">=", self.bars, ir.Constant(ir.VectorType(WHOLE, LANES), [first] * LANES))

    def _line(self, node: Node, back: int) -> Value:
        if (node, back) not in self.lines:
            self.lines[node, back] = self._load(node, back)
        return self.lines[node, back]

    def _load(self, node: Node, back: int) -> Value:
        return load_line(self.b, self.state, self._place(node, back))

    def _place(self, node: Node, back: int) -> Value:
        b, (place, lines) = self.b, self.code.rings[node]
        line = b.and_(b.sub(self.line, whole(back)), whole(lines - 1))
        return b.add(whole(8 * place), b.mul(line, whole(LINE)))
