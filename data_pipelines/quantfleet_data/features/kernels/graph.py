"""What a feature computes, written as nodes over bar columns. Equal nodes are one node, so a set shares what it can.

A window is put together from windows of 1, 2, 4, 8, ... bars: 20 bars are 4 + 16, and the 16 are 8 + 8. So a sum takes
log2(n) additions a bar, not n; its value is a function of its window alone, to the bit, wherever the history starts
(a running sum is not: it remembers every rounding); a null stays in the windows that hold it; and averages of several
lengths share their parts. Maxima, their ages and sums of squared deviations are put together the same way.

Nothing here computes: `program.plan` puts the nodes in order and compiles them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Graph", "Node", "Operand"]


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """A column of numbers: an operation on other columns, each some bars back. Made by `Graph` only."""

    number: int
    op: str
    operands: tuple[tuple[Node, int], ...]
    constants: tuple[float, ...]
    first: int
    """Bars before its first defined value."""
    name: str = ""
    """Of an input: the bar column."""

    def lag(self, bars: int) -> tuple[Node, int]:
        """The node's value `bars` bars ago."""
        return self, bars


Operand: TypeAlias = Node | tuple[Node, int]
"""A node, or its value some bars ago."""


class Graph:
    """Makes nodes; asked twice for the same it returns the same. Lower-case letters below: a, b, c, d operands."""

    def __init__(self) -> None:
        self._nodes: dict[object, Node] = {}

    def input(self, name: str) -> Node:
        """A bar column as float64, null as NaN; `day` is the number of the bar's UTC day."""
        return self._node("input", (), (), first=0, name=name)

    def typical_price(self) -> Node:
        """(high + low + close) / 3."""
        third = 1.0 / 3.0
        return self.lin(self.add(self.input("high"), self.input("low")), self.input("close"), p=third, q=third)

    def zero(self) -> Node:
        """0 everywhere."""
        return self._node("zero", (), (), first=0)

    def _node(
        self, op: str, operands: tuple[Operand, ...], constants: tuple[float, ...], *, first: int = -1, name: str = ""
    ) -> Node:
        pairs = tuple(_pair(operand) for operand in operands)
        if first < 0:
            first = max(node.first + lag for node, lag in pairs)
        key = (op, tuple((node.number, lag) for node, lag in pairs), constants, first, name)
        if key not in self._nodes:
            self._nodes[key] = Node(len(self._nodes), op, pairs, constants, first, name)
        return self._nodes[key]

    # Element by element.

    def add(self, a: Operand, b: Operand) -> Node:
        """a + b."""
        return self._node("add", (a, b), ())

    def sub(self, a: Operand, b: Operand) -> Node:
        """a - b."""
        return self._node("sub", (a, b), ())

    def mul(self, a: Operand, b: Operand) -> Node:
        """a b."""
        return self._node("mul", (a, b), ())

    def inverse(self, a: Operand) -> Node:
        """1 / a, for an a that is never 0: several ratios to one price share a division."""
        return self._node("inverse", (a,), ())

    def product(self, a: Operand, b: Operand, *, p: float = 1.0, r: float = 0.0) -> Node:
        """p a b + r."""
        return self._node("product", (a, b), (p, r))

    def lin(self, a: Operand, b: Operand | None = None, *, p: float = 1.0, q: float = 0.0, r: float = 0.0) -> Node:
        """p a + q b + r."""
        return self._node("lin", (a, self.zero() if b is None else b), (p, q, r))

    def larger(self, a: Operand, b: Operand) -> Node:
        """The larger of both; NaN when one is."""
        return self._node("max", (a, b), ())

    def smaller(self, a: Operand, b: Operand) -> Node:
        """The smaller of both; NaN when one is."""
        return self._node("min", (a, b), ())

    def rise(self, a: Operand, b: Operand) -> Node:
        """a - b where that is positive, else 0."""
        return self._node("rise", (a, b), ())

    def absdiff(self, a: Operand, b: Operand) -> Node:
        """|a - b|."""
        return self._node("absdiff", (a, b), ())

    def ratio(self, a: Operand, b: Operand, *, p: float = 1.0, r: float = 0.0) -> Node:
        """p a / b + r, for a b that is never 0."""
        return self._node("ratio", (a, b), (p, r))

    def safe(self, a: Operand, b: Operand, *, p: float = 1.0, r: float = 0.0, undefined: float) -> Node:
        """p a / b + r, and `undefined` where b is exactly 0."""
        return self._node("safe", (a, b), (p, r, undefined))

    def place(
        self, a: Operand, b: Operand, c: Operand, d: Operand, *, p: float = 1.0, r: float = 0.0, undefined: float
    ) -> Node:
        """p (a - b) / (c - d) + r, and `undefined` where c equals d."""
        return self._node("place", (a, b, c, d), (p, r, undefined))

    def neutral(self, a: Operand, value: float) -> Node:
        """a, and `value` where a is NaN: for volumes, which may be null."""
        return self._node("neutral", (a,), (value,))

    def root(self, a: Operand, *, p: float = 1.0) -> Node:
        """Square root of p a."""
        return self._node("root", (a,), (p,))

    def directed(self, a: Operand, b: Operand, c: Operand, d: Operand) -> Node:
        """a - b where that is positive and larger than d - c, else 0: Wilder's directional movement."""
        return self._node("directed", (a, b, c, d), ())

    def where_rose(self, a: Operand, b: Operand, c: Operand) -> Node:
        """c where a > b, else 0."""
        return self._node("where_rose", (a, b, c), ())

    def signed(self, a: Operand, b: Operand, c: Operand) -> Node:
        """c where a > b, -c where a < b, else 0."""
        return self._node("signed", (a, b, c), ())

    # Over the last n bars, the current one included.

    def total(self, x: Node, n: int) -> Node:
        """Sum over n bars."""
        parts = list(_parts(n))
        done, bars = self._doubled_total(x, parts[0]), parts[0]
        for part in parts[1:]:
            done, bars = self.add(done, self._doubled_total(x, part).lag(bars)), bars + part
        return done

    def mean(self, x: Node, n: int) -> Node:
        """Mean over n bars; exactly x where all are equal."""
        parts = list(_parts(n))
        done, scale, bars = self._doubled_total(x, parts[0]), 1.0 / parts[0], parts[0]
        if len(parts) == 1:
            return self.lin(done, p=scale)
        for part in parts[1:]:
            older = self._doubled_total(x, part).lag(bars)
            done = self._node("mix", (done, older), (scale, 1.0 / part, part / (bars + part)))
            scale, bars = 1.0, bars + part
        return done

    def squares(self, x: Node, n: int) -> Node:
        """Sum of the squared deviations of n bars from their mean; exactly 0 where all are equal.

        Source: Chan, Golub & LeVeque (1979), Updating formulae and a pairwise algorithm for computing variances.
        """
        parts = list(_parts(n))
        done, bars = self._doubled_squares(x, parts[0]), parts[0]
        for part in parts[1:]:
            weight = bars * part / (bars + part)
            apart = (self.mean(x, bars), self._doubled_total(x, part).lag(bars))
            older = self._doubled_squares(x, part).lag(bars)
            done, bars = self._node("spread", (done, older, *apart), (1.0, 1.0 / part, weight)), bars + part
        return done

    def deviation(self, x: Node, n: int) -> Node:
        """Population standard deviation of n bars; exactly 0 where all are equal."""
        return self.root(self.squares(x, n), p=1.0 / n)

    def mean_deviation(self, x: Node, n: int) -> Node:
        """Sum of the distances of n bars from their mean, n times the mean absolute deviation."""
        first = x.first + n - 1
        return self._node("deviation", (x, self.mean(x, n), x.lag(n - 1)), (float(n),), first=first)

    def highest(self, x: Node, n: int) -> Node:
        """Largest of n bars."""
        return self._extreme("max", x, n)

    def lowest(self, x: Node, n: int) -> Node:
        """Smallest of n bars."""
        return self._extreme("min", x, n)

    def age_of_highest(self, x: Node, n: int) -> Node:
        """Bars since the largest of n bars, the newest of equals: 0 to n - 1."""
        return self._age("max", x, n)

    def age_of_lowest(self, x: Node, n: int) -> Node:
        """Bars since the smallest of n bars, the newest of equals: 0 to n - 1."""
        return self._age("min", x, n)

    def _age(self, op: str, x: Node, n: int) -> Node:
        done, age, bars = x, self.zero(), 1
        while bars < n:
            step = min(bars, n - bars)
            age = self._node(f"age_of_{op}", (done, done.lag(step), age, age.lag(step)), (float(step),))
            done, bars = self._node(op, (done, done.lag(step)), ()), bars + step
        return age

    def _extreme(self, op: str, x: Node, n: int) -> Node:
        done, bars = x, 1
        while bars < n:
            step = min(bars, n - bars)
            done, bars = self._node(op, (done, done.lag(step)), ()), bars + step
        return done

    def _doubled_total(self, x: Node, n: int) -> Node:
        if n == 1:
            return x
        half = self._doubled_total(x, n // 2)
        return self.add(half, half.lag(n // 2))

    def _doubled_squares(self, x: Node, n: int) -> Node:
        if n == 1:
            return self.zero()
        half, total = self._doubled_squares(x, n // 2), self._doubled_total(x, n // 2)
        mean = 2.0 / n
        return self._node("spread", (half, half.lag(n // 2), total, total.lag(n // 2)), (mean, mean, n / 4.0))

    # Recursive: older bars keep a weight.

    def ema(self, x: Node, n: int) -> Node:
        """y += 2 / (n + 1) (x - y), from the mean of the first n values on."""
        return self._node("ema", (x,), (2.0 / (n + 1), float(n)), first=x.first + n - 1)

    def wilder(self, x: Node, n: int) -> Node:
        """y += (x - y) / n, from the mean of the first n values on."""
        return self._node("ema", (x,), (1.0 / n, float(n)), first=x.first + n - 1)

    def adaptive(self, x: Node, n: int, fast: int, slow: int) -> Node:
        """Kaufman's average: y += c (x - y), c from the efficiency of the last n moves; starts at x before the first c."""
        path = self.total(self.absdiff(x, x.lag(1)), n)
        low, high = 2.0 / (slow + 1), 2.0 / (fast + 1)
        rate = self._node("kama_rate", (self.sub(x, x.lag(n)), path), (high - low, low))
        return self._node("adaptive", (x, rate), (float(rate.first),), first=rate.first)

    def since_midnight(self, x: Node) -> Node:
        """Sum of x over the bars of the current UTC day so far."""
        return self._node("since_midnight", (x, self.input("day"), self.input("day").lag(1)), (), first=x.first)


def _pair(operand: Operand) -> tuple[Node, int]:
    node, lag = operand if isinstance(operand, tuple) else (operand, 0)
    return (node, 0) if node.op == "zero" else (node, lag)


def _parts(n: int) -> Iterator[int]:
    """The powers of two that add up to n, smallest first."""
    for power in range(n.bit_length()):
        if n >> power & 1:
            yield 1 << power
