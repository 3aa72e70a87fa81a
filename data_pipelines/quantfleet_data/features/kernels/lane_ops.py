"""Operations that work element by element, as LLVM instructions on LANES doubles; `graph.Graph` says what each computes.

No fast-math flags, no fused multiply-adds: a value has the same bits in every lane, on every processor. A division by zero
gives infinity or NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llvmlite import ir

from quantfleet_data.features.kernels.codes import LANES

__all__ = ["DOUBLE", "DOUBLES", "ELEMENTWISE", "absolute", "constant"]

DOUBLE = ir.DoubleType()
DOUBLES = ir.VectorType(DOUBLE, LANES)

Value: TypeAlias = Any
"""A value of LLVM code."""
Values: TypeAlias = Sequence[Any]
Builder: TypeAlias = Any


def constant(x: float) -> Value:
    """x in every lane."""
    return ir.Constant(DOUBLES, [float(x)] * LANES)


_ZERO = constant(0.0)


def _intrinsic(b: Builder, name: str, x: Value) -> Value:
    known = b.module.globals.get(name)
    function = known or ir.Function(b.module, ir.FunctionType(DOUBLES, [DOUBLES]), name)
    return b.call(function, [x])


def absolute(b: Builder, x: Value) -> Value:
    return _intrinsic(b, f"llvm.fabs.v{LANES}f64", x)


def _root(b: Builder, x: Values, c: Values) -> Value:
    return _intrinsic(b, f"llvm.sqrt.v{LANES}f64", b.fmul(c[0], x[0]))


def _lin(b: Builder, x: Values, c: Values) -> Value:
    return b.fadd(b.fadd(b.fmul(c[0], x[0]), b.fmul(c[1], x[1])), c[2])


def _extreme(order: str) -> Callable[[Builder, Values, Values], Value]:
    def operate(b: Builder, x: Values, c: Values) -> Value:
        keep = b.or_(b.fcmp_ordered(order, x[0], x[1]), b.fcmp_unordered("uno", x[0], x[0]))
        return b.select(keep, x[0], x[1])

    return operate


def _age(order: str) -> Callable[[Builder, Values, Values], Value]:
    def operate(b: Builder, x: Values, c: Values) -> Value:
        return b.select(b.fcmp_ordered(order, x[0], x[1]), x[2], b.fadd(x[3], c[0]))

    return operate


def _rise(b: Builder, x: Values, c: Values) -> Value:
    change = b.fsub(x[0], x[1])
    return b.select(b.fcmp_ordered("<=", change, _ZERO), _ZERO, change)


def _product(b: Builder, x: Values, c: Values) -> Value:
    return b.fadd(b.fmul(b.fmul(c[0], x[0]), x[1]), c[1])


def _ratio(b: Builder, x: Values, c: Values) -> Value:
    return b.fadd(b.fdiv(b.fmul(c[0], x[0]), x[1]), c[1])


def _safe(b: Builder, x: Values, c: Values) -> Value:
    return b.select(b.fcmp_ordered("==", x[1], _ZERO), c[2], _ratio(b, x, c))


def _place(b: Builder, x: Values, c: Values) -> Value:
    width = b.fsub(x[2], x[3])
    value = b.fadd(b.fdiv(b.fmul(c[0], b.fsub(x[0], x[1])), width), c[1])
    return b.select(b.fcmp_ordered("==", width, _ZERO), c[2], value)


def _spread(b: Builder, x: Values, c: Values) -> Value:
    apart = b.fsub(b.fmul(c[0], x[2]), b.fmul(c[1], x[3]))
    return b.fadd(b.fadd(x[0], x[1]), b.fmul(c[2], b.fmul(apart, apart)))


def _mix(b: Builder, x: Values, c: Values) -> Value:
    mean = b.fmul(c[0], x[0])
    return b.fadd(mean, b.fmul(b.fsub(b.fmul(c[1], x[1]), mean), c[2]))


def _directed(b: Builder, x: Values, c: Values) -> Value:
    move, other = b.fsub(x[0], x[1]), b.fsub(x[3], x[2])
    return b.select(b.and_(b.fcmp_ordered(">", move, other), b.fcmp_ordered(">", move, _ZERO)), move, _ZERO)


def _signed(b: Builder, x: Values, c: Values) -> Value:
    down = b.select(b.fcmp_ordered("<", x[0], x[1]), b.fneg(x[2]), _ZERO)
    return b.select(b.fcmp_ordered(">", x[0], x[1]), x[2], down)


def _kama_rate(b: Builder, x: Values, c: Values) -> Value:
    efficiency = b.fdiv(absolute(b, x[0]), x[1])
    efficiency = b.select(b.fcmp_ordered("==", x[1], _ZERO), constant(1.0), efficiency)
    rate = b.fadd(b.fmul(efficiency, c[0]), c[1])
    return b.fmul(rate, rate)


ELEMENTWISE: dict[str, Callable[[Builder, Values, Values], Value]] = {
    "add": lambda b, x, c: b.fadd(x[0], x[1]),
    "sub": lambda b, x, c: b.fsub(x[0], x[1]),
    "mul": lambda b, x, c: b.fmul(x[0], x[1]),
    "lin": _lin,
    "max": _extreme(">="),
    "min": _extreme("<="),
    "rise": _rise,
    "inverse": lambda b, x, c: b.fdiv(constant(1.0), x[0]),
    "product": _product,
    "ratio": _ratio,
    "safe": _safe,
    "place": _place,
    "neutral": lambda b, x, c: b.select(b.fcmp_ordered("==", x[0], x[0]), x[0], c[0]),
    "absdiff": lambda b, x, c: absolute(b, b.fsub(x[0], x[1])),
    "age_of_max": _age(">="),
    "age_of_min": _age("<="),
    "spread": _spread,
    "mix": _mix,
    "root": _root,
    "directed": _directed,
    "where_rose": lambda b, x, c: b.select(b.fcmp_ordered(">", x[0], x[1]), x[2], _ZERO),
    "signed": _signed,
    "kama_rate": _kama_rate,
}
"""By operation of `graph.Graph`: (builder, operands, constants) to the result."""
