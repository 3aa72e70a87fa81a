"""Measures, in this process, what a torch fit would cost a worker: no Ray, no worker, no file written.

Shapes: N windows of a micro-batch, L look-back bars, F features.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from quantfleet.contracts import Augmenter, Segment, TrainingData
from quantfleet.errors import ConfigError, TrainingError
from quantfleet.training.memory import SHARINGS, Precision, Sharing
from quantfleet.training.module import ScaledForecaster
from quantfleet.training.plan import FitPlan, PlanInput, PlanRequest, StepCosts, plan_fit
from quantfleet.training.preflight import check_batch
from quantfleet.training.strategies import DeepSpeedConfig, StrategyConfig
from quantfleet.training.windows import WindowLoader, chunk_bytes
from quantfleet.transforms import InputTransform

if TYPE_CHECKING:
    from quantfleet.training.torch_config import TorchModelConfig

__all__ = ["ProcessCosts", "StepTimes", "activation_bytes", "plan_torch", "process_costs", "time_steps"]

_WARM_UP = 2
_MEASURE_S = 1.0
"""How long each of the measurements goes on, at least `_LEAST` times and at most `_MOST`."""
_LEAST, _MOST = 3, 50
_WORKER_IMPORTS = "import quantfleet.training.loop"
_PRINT_MEMORY = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
_SEGMENTS: tuple[Segment, ...] = ("train", "validation")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """Medians, seconds."""

    train_s: float
    update_s: float
    forward_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessCosts:
    """Of a new process that has imported what a worker imports."""

    seconds: float
    bytes: int


def plan_torch(config: TorchModelConfig, data: TrainingData, request: PlanRequest) -> FitPlan:
    """Fit the inputs as a fit does, build the network, measure some steps and batches, and plan.

    Raises: ConfigError: the model does not fit its data, or the batch its workers.
    """
    training, workers = request.training, request.workers
    shards = training.data_shards
    config.check_shards(shards)
    check_batch(config.label, config.batch_windows, shards=shards, chunks=data.chunks("train"), spec=data.spec)
    began = time.perf_counter()
    inputs = InputTransform.fit(data, scaler=config.scaler, selection=config.selection, label=config.selection_label)
    prepare_s = time.perf_counter() - began
    device = torch.device("cuda" if training.use_gpu and torch.cuda.is_available() else "cpu")
    forecaster = ScaledForecaster(config.build_network(inputs.spec), inputs.spec).to(device).train()
    readers = {s: data.reader(s) for s in _SEGMENTS}
    sizes = {s: len(reader) * chunk_bytes(data.spec) for s, reader in readers.items()}
    kept = [n for s, n in sizes.items() if not readers[s].local and n <= training.cache_mb * 1_000_000]
    order_Q = training.sampling.order(
        readers["train"].index(), np.full(len(readers["train"]), np.nan, np.float32), seed=request.seed, epoch=0
    )
    given = PlanInput(
        model=config.label,
        kind=config.kind,
        parameters=sum(p.numel() for p in forecaster.parameters()),
        trainable=sum(p.numel() for p in forecaster.parameters() if p.requires_grad),
        epochs=config.epochs,
        batch_windows=config.batch_windows,
        buffer_chunks=config.buffer_chunks,
        chunk_bars=data.spec.chunk_bars,
        chunk_bytes=chunk_bytes(data.spec),
        window_bytes=4 * inputs.spec.lookback_bars * inputs.spec.features,
        train_chunks=len(order_Q),
        validation_chunks=len(readers["validation"]),
        train_windows=int(data.stats.targets["train"]),
        validation_windows=int(data.stats.targets["validation"]),
        sharing=_sharing(training.strategy),
        workers=workers,
        cpus_per_worker=training.cpus_per_worker,
        use_gpu=training.use_gpu,
        precision=training.precision,
        shards=shards,
        micro_limit=training.micro_windows,
        offload=getattr(training.strategy, "offload", False),
        weight_copies=0 if config.average == "none" else 1,
        cached_bytes=sum(kept),
    )
    x_NLF = torch.randn(given.micro_windows, inputs.spec.lookback_bars, inputs.spec.features, device=device)
    with _threads(max(1, int(training.cpus_per_worker))):
        activations = activation_bytes(forecaster, x_NLF, precision=given.precision)
        times = time_steps(forecaster, x_NLF, precision=given.precision, gradient_clip=config.gradient_clip)
        augmenter = config.augmenter(data, inputs, request.seed)
        batches = {s: _batch_seconds(data, s, given, inputs, request, augmenter) for s in _SEGMENTS}
    process = process_costs()
    costs = StepCosts(
        train_s=times.train_s,
        update_s=times.update_s,
        forward_s=times.forward_s,
        train_batch_s=batches["train"],
        validation_batch_s=batches["validation"],
        activation_bytes=activations,
        process_bytes=process.bytes,
        prepare_s=prepare_s,
        import_s=process.seconds,
        device=device.type,
    )
    return plan_fit(given, costs, request)


def activation_bytes(module: nn.Module, x: Tensor, *, precision: Precision = "32") -> int:
    """Bytes that autograd keeps from the forward pass for the backward pass; weights, buffers and the input itself left out.

    Counted, not modelled: `torch.autograd.graph.saved_tensors_hooks` sees every tensor that is kept, and tensors that share memory
    count once. A checkpointed layer keeps its inputs alone, and is counted so. What lives only within one operation is not seen.
    """
    known = {t.untyped_storage().data_ptr() for t in (x, *module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _autocast(x, precision):
        _loss(module(x))
    return sum(kept.values())


def time_steps(module: nn.Module, x: Tensor, *, precision: Precision = "32", gradient_clip: float = 1.0) -> StepTimes:
    """Median seconds of forward and backward, of clipping and AdamW, and of a forward pass alone; weights change."""
    optimizer = torch.optim.AdamW(module.parameters())

    def train() -> None:
        optimizer.zero_grad()
        with _autocast(x, precision):
            loss = _loss(module(x))
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]

    def update() -> None:
        nn.utils.clip_grad_norm_(module.parameters(), gradient_clip)
        optimizer.step()

    def forward() -> None:
        with torch.no_grad(), _autocast(x, precision):
            module(x)

    train_s, update_s, forward_s = (_median_seconds(work, x.device) for work in (train, update, forward))
    return StepTimes(train_s=train_s, update_s=update_s, forward_s=forward_s)


def process_costs(imports: str = _WORKER_IMPORTS) -> ProcessCosts:
    """Start one Python that imports what a worker imports, and ask how long it took and what it holds.

    Raises: TrainingError: it cannot.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}; {_PRINT_MEMORY}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise TrainingError(
            f"a worker's process cannot start here: {done.stderr.strip().splitlines()[-1:]}. See `quantfleet doctor`."
        )
    unit = 1 if sys.platform == "darwin" else 1024
    return ProcessCosts(seconds=seconds, bytes=int(done.stdout.split()[-1]) * unit)


def _loss(heads: dict[str, Tensor]) -> Tensor:
    """Something to go backward from; a real loss costs a few values a window more."""
    return torch.stack([head.float().square().mean() for head in heads.values()]).sum()


def _autocast(x: Tensor, precision: Precision) -> contextlib.AbstractContextManager[object]:
    if precision == "32":
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def _median_seconds(work: Callable[[], None], device: torch.device) -> float:
    def once() -> float:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    for _ in range(_WARM_UP):
        once()
    took: list[float] = []
    while len(took) < _LEAST or (len(took) < _MOST and sum(took) < _MEASURE_S):
        took.append(once())
    return statistics.median(took)


def _batch_seconds(
    data: TrainingData,
    segment: Segment,
    given: PlanInput,
    inputs: InputTransform,
    request: PlanRequest,
    augmenter: Augmenter | None,
) -> float:
    """Mean time until rank 0's loader hands over its part of a step, over a whole epoch or about a second."""
    train = segment == "train"
    loader = WindowLoader(
        data.reader(segment),
        batch_windows=given.batch_windows,
        shards=given.data_shards,
        buffer_chunks=given.buffer_chunks,
        seed=request.seed if train else None,
        sampling=request.training.sampling,
        workers=given.workers,
        rank=0,
        reuse_batches=True,
        inputs=inputs,
        augmenter=augmenter if train else None,
    )
    began, batches, elapsed = time.perf_counter(), 0, 0.0
    for _ in loader:
        batches += 1
        elapsed = time.perf_counter() - began
        if elapsed > _MEASURE_S:
            break
    return elapsed / max(batches, 1)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sharing(strategy: StrategyConfig) -> Sharing:
    """Raises: ConfigError: a strategy of a plugin, of which nothing is known."""
    name = f"zero{strategy.zero_stage}" if isinstance(strategy, DeepSpeedConfig) else strategy.kind
    for sharing in SHARINGS:
        if sharing == name:
            return sharing
    raise ConfigError(
        f"there is no plan for training.strategy {strategy.kind!r}: known are ddp, fsdp and deepspeed. Train without --plan."
    )
