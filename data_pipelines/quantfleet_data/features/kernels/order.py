"""In which order nodes are computed, how far back each is looked at, and from which bar on nothing is special any more."""

from __future__ import annotations

from collections.abc import Sequence

from quantfleet.errors import ConfigError
from quantfleet_data.features.kernels.codes import LANES
from quantfleet_data.features.kernels.graph import Node

__all__ = ["check_outputs", "halo_bars", "one_by_one", "taken", "together", "warm_bars"]

_RECURSIVE = ("ema", "adaptive", "since_midnight")


def check_outputs(outputs: Sequence[tuple[Node, int]]) -> None:
    """Raises: ConfigError: a node is not defined at the bar its values are promised from, or no bar column is read."""
    for node, first in outputs:
        if node.first > first:
            raise ConfigError(f"a feature promises a value after {first} bars, but its formula needs {node.first}.")
    if not any(node.op == "input" for (node,) in one_by_one([node for node, _ in outputs])):
        raise ConfigError("no bar column is read; a formula starts from `Graph.input`.")


def taken(outputs: Sequence[tuple[Node, int]]) -> dict[Node, list[tuple[int, int]]]:
    """Which outputs each node is, by number and first defined bar."""
    takes: dict[Node, list[tuple[int, int]]] = {}
    for number, (node, first) in enumerate(outputs):
        takes.setdefault(node, []).append((number, first))
    return takes


def one_by_one(outputs: Sequence[Node]) -> list[list[Node]]:
    """Steps of one node, operands before what is made of them and otherwise as late as can be: registers are few."""
    order: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in order:
            for operand, _ in node.operands:
                visit(operand)
            order[node] = None

    for node in outputs:
        visit(node)
    return [[node] for node in order]


def together(outputs: Sequence[Node]) -> list[list[Node]]:
    """Steps of one node, or of up to LANES averages that do not need each other."""
    depth: dict[Node, int] = {}

    def measure(node: Node) -> int:
        if node not in depth:
            depth[node] = max((measure(o) for o, _ in node.operands), default=0) + (node.op == "ema")
        return depth[node]

    for node in outputs:
        measure(node)
    steps: list[list[Node]] = []
    done: set[Node] = set()

    def visit(node: Node) -> None:
        if node not in done:
            done.add(node)
            for operand, _ in node.operands:
                visit(operand)
            steps.append([node])

    averages = [node for node in depth if node.op == "ema"]
    for level in range(1, max(depth.values(), default=0) + 1):
        group = [node for node in averages if depth[node] == level]
        for node in group:
            for operand, _ in node.operands:
                visit(operand)
        done.update(group)
        steps.extend(group[i : i + LANES] for i in range(0, len(group), LANES))
    for node in outputs:
        visit(node)
    return steps


def halo_bars(steps: Sequence[Sequence[Node]]) -> dict[Node, int]:
    """How far back each node is looked at; nodes that are not are absent."""
    halos: dict[Node, int] = {}
    for step in steps:
        for node in step:
            for operand, lag in node.operands:
                if lag:
                    halos[operand] = max(halos.get(operand, 0), lag)
    return halos


def warm_bars(outputs: Sequence[tuple[Node, int]], steps: Sequence[Sequence[Node]]) -> int:
    """From this bar on every average has begun and every output is defined."""
    begun = [node.first + 1 for step in steps for node in step if node.op in _RECURSIVE]
    return max([first for _, first in outputs] + begun)
