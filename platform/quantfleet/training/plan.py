"""What a fit would take, before anything is launched: parameters, memory of a worker, steps, time and what bounds it.

Pure: measurements come in as numbers (`torch_plan.py` makes them), nothing is read or timed here. Steps are exact, since
`EpochPlan` decides them; bytes of weights and optimizer follow the ZeRO paper (`memory.py`); seconds are a sum without overlap, so
that what hides behind computing makes the fit faster than said, never slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from quantfleet.training.data_state import EpochPlan
from quantfleet.training.memory import SHARINGS, Precision, Sharing, collective_bytes, state_bytes

if TYPE_CHECKING:
    from quantfleet.training.config import TrainingConfig

__all__ = [
    "RAY_START_S",
    "FitPlan",
    "MemoryRow",
    "Network",
    "PlanInput",
    "PlanRequest",
    "StepCosts",
    "plan_fit",
    "ring_seconds",
]

RAY_START_S = 4.0
"""Of a Ray of one's own on this machine; assumed: a plan starts no Ray."""
_DDP_BUCKET_BYTES = 25 * 2**20
"""Gradients of one all-reduce, torch's `bucket_cap_mb`."""
_INDEX_BYTES = 40
"""Of a chunk, for the index of its segment and the order of the epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Between two workers; assumed, not measured."""

    bandwidth_bytes_s: float = 1.25e9
    """10 Gbit/s."""
    latency_s: float = 5e-5
    """Of one message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """What the models of a run are planned for."""

    training: TrainingConfig
    workers: int
    """One number; an elastic fit is planned for both of its ends."""
    seed: int
    network: Network = field(default_factory=Network)
    shared_cores: int | None = None
    """Cores of the one machine on which all workers run; None: each worker has the cores it asks for."""
    ray_start_s: float = RAY_START_S
    """Until Ray is there; 0 where it runs already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanInput:
    """One torch fit with one number of workers."""

    model: str
    kind: str
    parameters: int
    trainable: int
    epochs: int
    batch_windows: int
    """Of one optimizer step, over all workers."""
    buffer_chunks: int
    chunk_bars: int
    chunk_bytes: int
    window_bytes: int
    """Of one window as the network reads it."""
    train_chunks: int
    """Of one epoch, as the sampling takes them."""
    validation_chunks: int
    train_windows: int
    """Windows that count in the segment."""
    validation_windows: int
    sharing: Sharing
    workers: int
    cpus_per_worker: float = 1.0
    use_gpu: bool = False
    precision: Precision = "32"
    shards: int | None = None
    """Parts that the data are dealt in; as many as workers when None."""
    micro_limit: int | None = None
    """Most windows of one forward and backward pass on a worker; None: its whole share of a step."""
    offload: bool = False
    weight_copies: int = 0
    cached_bytes: int = 0
    """Chunks that a worker keeps because their store is far away."""

    @property
    def data_shards(self) -> int:
        return self.shards or self.workers

    @property
    def share_windows(self) -> int:
        """Windows of one step on the worker that serves the most shards."""
        return self.batch_windows // self.data_shards * -(-self.data_shards // self.workers)

    @property
    def pieces(self) -> int:
        """Forward and backward passes of one step on a worker, whose gradients add up."""
        return 1 if self.micro_limit is None else -(-self.share_windows // self.micro_limit)

    @property
    def micro_windows(self) -> int:
        """Windows of one forward and backward pass on one worker."""
        return max(1, -(-self.share_windows // self.pieces))


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCosts:
    """What was measured on one worker's micro-batch."""

    train_s: float
    """Forward and backward."""
    update_s: float
    """Clipping and the optimizer, on the whole model."""
    forward_s: float
    """Forward alone, for validation."""
    train_batch_s: float
    """Until the loader hands over a micro-batch."""
    validation_batch_s: float
    activation_bytes: int
    process_bytes: int
    """Python and its libraries."""
    prepare_s: float
    """Fitting scaler and selection, in the driver."""
    import_s: float
    """Until a new process has imported what a worker imports."""
    device: str = "cpu"
    """Where steps were timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRow:
    """Memory of one worker, if training were spread this way."""

    name: str
    chosen: bool
    """Whether the recipe says so."""
    parts: Mapping[str, int]
    """Bytes, by what they are for."""
    host: int = 0
    """How much of them is moved from the GPU to the host."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class FitPlan:
    """The answer for one model and one number of workers."""

    model: str
    kind: str
    workers: int = 0
    """0: it is fitted in the driver's process."""
    parameters: int = 0
    trainable: int = 0
    windows: Mapping[str, int] = field(default_factory=dict)
    batch_windows: int = 0
    micro_windows: int = 0
    unit: str = "steps"
    """What `units` counts: steps, or rounds of boosting."""
    units_per_epoch: int = 0
    validation_units_per_epoch: int = 0
    epochs: int = 0
    units: int = 0
    optimizer_steps: int = 0
    memory: tuple[MemoryRow, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By compute, data, communication, start-up."""
    measured: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    note: str = ""

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def bottleneck(self) -> str | None:
        """The largest part of the time; None where there is none."""
        return max(self.seconds, key=lambda part: self.seconds[part]) if self.total_s > 0 else None

    def share(self, part: str) -> float:
        return self.seconds[part] / self.total_s if self.total_s > 0 else 0.0


def ring_seconds(payload_bytes: int, *, workers: int, messages: int, network: Network) -> float:
    """Time of ring collectives: each of their two halves passes (n - 1) / n of the payload on, in n - 1 messages.

    2 (n - 1) / n x bytes / bandwidth + 2 (n - 1) x latency for one all-reduce. Source: Thakur, Rabenseifner and Gropp 2005,
    "Optimization of Collective Communication Operations in MPICH", section 4.

    Args:
        payload_bytes: of both halves together, as `collective_bytes` counts them: twice the gradients for an all-reduce.
        messages: collectives' halves, each of n - 1 messages.
    """
    if workers < 2:
        return 0.0
    moved = (workers - 1) / workers * payload_bytes / network.bandwidth_bytes_s
    return moved + messages * (workers - 1) * network.latency_s


def plan_fit(given: PlanInput, costs: StepCosts, request: PlanRequest) -> FitPlan:
    """Put counts, bytes and seconds together. No I/O."""
    train, validation = _steps(given.train_chunks, given), _steps(given.validation_chunks, given)
    return FitPlan(
        model=given.model,
        kind=given.kind,
        workers=given.workers,
        parameters=given.parameters,
        trainable=given.trainable,
        windows={"train": given.train_windows, "validation": given.validation_windows},
        batch_windows=given.batch_windows,
        micro_windows=given.micro_windows,
        units_per_epoch=train,
        validation_units_per_epoch=validation,
        epochs=given.epochs,
        units=train * given.epochs,
        optimizer_steps=train * given.epochs,
        memory=_memory(given, costs),
        seconds=_seconds(given, costs, request, train, validation),
        measured=_measured(given, costs),
        assumed=_assumed(given, costs, request),
    )


def _steps(chunks: int, given: PlanInput) -> int:
    """Exactly what `WindowLoader` makes: every worker's, padding included."""
    return EpochPlan(
        np.arange(chunks, dtype=np.int64),
        given.chunk_bars,
        None,
        0,
        shards=given.data_shards,
        buffer_chunks=given.buffer_chunks,
        step_windows=given.batch_windows // given.data_shards,
    ).steps


def _memory(given: PlanInput, costs: StepCosts) -> tuple[MemoryRow, ...]:
    data = (
        2 * given.buffer_chunks * given.chunk_bytes * -(-given.data_shards // given.workers)
        + given.share_windows * given.window_bytes
        + _INDEX_BYTES * (given.train_chunks + given.validation_chunks)
        + given.cached_bytes
    )
    ways: list[tuple[Sharing, bool]] = [(sharing, False) for sharing in SHARINGS]
    if given.use_gpu:
        ways += [(sharing, True) for sharing in SHARINGS if sharing.startswith("zero")]
    rows = []
    for sharing, offload in ways:
        state = state_bytes(
            sharing,
            parameters=given.parameters,
            trainable=given.trainable,
            workers=given.workers,
            precision=given.precision,
            offload=offload,
            use_gpu=given.use_gpu,
            weight_copies=given.weight_copies,
        )
        rows.append(
            MemoryRow(
                name=sharing.replace("zero", "ZeRO ") + (" offload" if offload else ""),
                chosen=sharing == given.sharing and offload == (given.offload and given.use_gpu),
                parts={
                    "weights": state.weights + state.copies,
                    "gradients": state.gradients,
                    "optimizer": state.optimizer,
                    "exchange": state.buckets + state.gathered,
                    "activations": costs.activation_bytes,
                    "data": data,
                    "process": costs.process_bytes,
                },
                host=state.host,
            )
        )
    return tuple(rows)


def _crowding(given: PlanInput, request: PlanRequest) -> float:
    """How much slower everything is because workers share cores."""
    if request.shared_cores is None:
        return 1.0
    return max(1.0, given.workers * max(1, int(given.cpus_per_worker)) / request.shared_cores)


def _seconds(given: PlanInput, costs: StepCosts, request: PlanRequest, train: int, validation: int) -> dict[str, float]:
    crowding = _crowding(given, request)
    update_s = costs.update_s / (1 if given.sharing == "ddp" else given.workers)  # a shared state is updated in parts
    compute = train * (given.pieces * costs.train_s + update_s) + validation * given.pieces * costs.forward_s
    data = train * costs.train_batch_s + validation * costs.validation_batch_s
    payload = collective_bytes(
        given.sharing, parameters=given.parameters, trainable=given.trainable, precision=given.precision
    )
    buckets = max(1, -(-payload // (2 * _DDP_BUCKET_BYTES)))
    exchange = ring_seconds(payload, workers=given.workers, messages=2 * buckets, network=request.network)
    return {
        "compute": given.epochs * compute * crowding,
        "data": given.epochs * data * crowding,
        "communication": given.epochs * train * exchange,
        "start-up": request.ray_start_s + costs.prepare_s + costs.import_s * crowding,
    }


def _measured(given: PlanInput, costs: StepCosts) -> tuple[str, ...]:
    return (
        f"forward and backward of {given.micro_windows} windows {1e3 * costs.train_s:.2f} ms, forward alone "
        f"{1e3 * costs.forward_s:.2f} ms, clipping and AdamW {1e3 * costs.update_s:.2f} ms",
        f"the loader's time for such a batch {1e3 * costs.train_batch_s:.2f} ms (validation "
        f"{1e3 * costs.validation_batch_s:.2f} ms), from the run's own chunks",
        f"fitting scaler and selection {costs.prepare_s:.2f} s, a worker's imports {costs.import_s:.1f} s",
        "activations: bytes that autograd kept of one forward pass; process: a new one with a worker's imports",
    )


def _assumed(given: PlanInput, costs: StepCosts, request: PlanRequest) -> tuple[str, ...]:
    network, crowding = request.network, _crowding(given, request)
    alike = "every worker is as fast as this machine"
    if given.use_gpu and costs.device == "cpu":
        alike += ", which has no GPU: steps were timed on its CPU, and a GPU's are shorter"
    if crowding > 1:
        alike += f"; {given.workers} workers share {request.shared_cores} cores, so each is {crowding:.1f} times slower"
    lines = [
        alike,
        "nothing overlaps: reading and communicating behind the computing make it faster",
        "all epochs are trained: early stopping may end before",
    ]
    if request.ray_start_s:
        lines.append(f"Ray starts in {request.ray_start_s:g} s")
    if given.workers > 1:
        lines.append(
            f"a ring between workers at {network.bandwidth_bytes_s / 1e6:,.0f} MB/s and {1e6 * network.latency_s:.0f} µs a message"
        )
    return tuple(lines)
