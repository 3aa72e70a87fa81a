"""Compiled indicators: formulas as nodes (`graph`), put in order (`order`) and written as machine code (`emit`, `lane_ops`).

`series_code` runs one symbol's bars, all at once or as they come (`program`), `lane_code` many symbols (`panel`): the same
operations, the same bits. The compiler, LLVM through llvmlite, is loaded when something is computed, not when this is imported.
"""

from quantfleet_data.features.kernels.columns import bar_columns
from quantfleet_data.features.kernels.graph import Graph, Node, Operand
from quantfleet_data.features.kernels.memory import empty_rows
from quantfleet_data.features.kernels.panel import Panel, PanelRunner
from quantfleet_data.features.kernels.program import Program, Runner, plan
from quantfleet_data.features.kernels.sharing import Formula, lane_code_of, program_of

__all__ = [
    "Formula",
    "Graph",
    "Node",
    "Operand",
    "Panel",
    "PanelRunner",
    "Program",
    "Runner",
    "bar_columns",
    "empty_rows",
    "lane_code_of",
    "plan",
    "program_of",
]
