"""Which model answers: promotion gates and their decisions."""

from quantfleet.registry.builtin_gates import (
    BeatsBaselinesGate,
    BeatsChampionGate,
    DeflatedSharpeGate,
    MaxDrawdownGate,
    MinIcGate,
    MinSharpeGate,
    MinTradesOrBarsGate,
    NoLeakGate,
)
from quantfleet.registry.gates import (
    GATES,
    Candidate,
    Decision,
    GateConfig,
    GateContext,
    GateResult,
    Verdict,
    decide,
    decide_all,
    register_gate,
)

__all__ = [
    "GATES",
    "BeatsBaselinesGate",
    "BeatsChampionGate",
    "Candidate",
    "Decision",
    "DeflatedSharpeGate",
    "GateConfig",
    "GateContext",
    "GateResult",
    "MaxDrawdownGate",
    "MinIcGate",
    "MinSharpeGate",
    "MinTradesOrBarsGate",
    "NoLeakGate",
    "Verdict",
    "decide",
    "decide_all",
    "register_gate",
]
