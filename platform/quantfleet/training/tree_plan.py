"""What a fit of boosted trees would take. Pure, as `plan.py` is; each family measures its own rounds.

Symbols: R rows of one worker, G features, K label columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantfleet.training.plan import FitPlan, MemoryRow, PlanRequest, ring_seconds

__all__ = ["TreeCosts", "TreeInput", "plan_trees"]

_BINS = 256
_SUM_BYTES = 16
"""Sums of gradient and hessian of one bin, in doubles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeInput:
    """One fit of boosted trees with one number of workers."""

    model: str
    kind: str
    rounds: int
    trees_per_round: int
    max_depth: int
    features: int
    labels: int
    train_windows: int
    validation_windows: int
    workers: int
    threads: int = 1
    external: bool = False
    """Pages of rows lie on disk and are read again in every pass."""
    page_rows: int = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeCosts:
    """What was measured on some of the real rows."""

    sampled_rows: int
    read_s: float
    """Reading them from the chunks."""
    round_s: float
    """One round on them, with one worker's threads."""
    process_bytes: int
    prepare_s: float
    import_s: float


def plan_trees(given: TreeInput, costs: TreeCosts, request: PlanRequest) -> FitPlan:
    """Put counts, bytes and seconds together; time of reading and of a round grows with the rows."""
    shares = {
        "train": -(-given.train_windows // given.workers),
        "validation": -(-given.validation_windows // given.workers),
    }
    scale = shares["train"] / max(costs.sampled_rows, 1)
    both = sum(shares.values()) / max(costs.sampled_rows, 1)
    crowding = 1.0
    if request.shared_cores is not None:
        crowding = max(1.0, given.workers * given.threads / request.shared_cores)
    # one histogram of every feature for half of the nodes: the other half is what is left of the parent (subtraction)
    payload = given.trees_per_round * 2**given.max_depth // 2 * given.features * _BINS * _SUM_BYTES
    exchange = ring_seconds(
        2 * payload,
        workers=given.workers,
        messages=2 * given.max_depth * given.trees_per_round,
        network=request.network,
    )
    return FitPlan(
        model=given.model,
        kind=given.kind,
        workers=given.workers,
        windows={"train": given.train_windows, "validation": given.validation_windows},
        unit="rounds",
        units=given.rounds,
        memory=_memory(given, costs, sum(shares.values())),
        seconds={
            "compute": given.rounds * costs.round_s * scale * crowding,
            "data": costs.read_s * both * crowding,
            "communication": given.rounds * exchange,
            "start-up": request.ray_start_s + costs.prepare_s + costs.import_s * crowding,
        },
        measured=(
            f"one round of {given.trees_per_round} trees on {costs.sampled_rows:,} of the run's rows {1e3 * costs.round_s:.1f} ms, "
            f"reading them {1e3 * costs.read_s:.1f} ms; both grow with the rows",
            f"fitting the selection {costs.prepare_s:.2f} s, a worker's imports {costs.import_s:.1f} s",
        ),
        assumed=(
            "every worker is as fast as this machine"
            + (f"; together they are {crowding:.1f} times slower on its cores" if crowding > 1 else ""),
            "all rounds are trained: early stopping may end before",
            "every row has all labels; histograms of 256 bins",
        ),
    )


def _memory(given: TreeInput, costs: TreeCosts, rows: int) -> tuple[MemoryRow, ...]:
    """Rows in RAM: read (4 bytes a value), joined (4), XGBoost's entries (4 + 4) and their bins (1). On disk: two pages of bins."""
    G, K = given.features, given.labels
    targets = rows * K * (4 + 4 + 8)  # labels, predictions, gradient pairs
    pages = 2 * min(given.page_rows, rows) * G * (4 + 1)
    return tuple(
        MemoryRow(
            name=name,
            chosen=external == given.external,
            parts={"rows": values, "targets": targets, "process": costs.process_bytes},
        )
        for name, external, values in (
            ("rows in RAM", False, rows * G * (4 + 4 + 8 + 1)),
            ("external memory", True, pages),
        )
    )
