"""What can be known before workers start is said before workers start: one clear error each.

Checks are pure functions of what is asked and what there is; `see_cluster` and `see_hardware` look, `check_run` puts them
together in the driver. What only a worker knows (its own GPU) is asked there, by the same `check_strategy`.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantfleet.config import to_plain
from quantfleet.contracts import DataSpec, ModelConfig
from quantfleet.errors import ClusterError, ConfigError, TrainingError
from quantfleet.training.memory import Precision

if TYPE_CHECKING:
    from quantfleet.training.config import TrainingConfig

__all__ = [
    "ClusterView",
    "Hardware",
    "NodeView",
    "check_batch",
    "check_run",
    "check_same_fit",
    "check_strategy",
    "check_workers_fit",
    "fit_record",
    "see_cluster",
    "see_hardware",
]

_SHOWN_NODES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeView:
    """A living node of the cluster and all it has, whether in use or not."""

    name: str
    cpus: float
    gpus: float = 0.0

    def workers(self, *, cpus: float, gpus: float) -> int:
        """How many workers fit on it."""
        rooms = [have / need for have, need in ((self.cpus, cpus), (self.gpus, gpus)) if need > 0]
        return math.floor(min(rooms, default=0.0) + 1e-9)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterView:
    """What a cluster has, and what it can grow to."""

    nodes: tuple[NodeView, ...]
    most: Mapping[str, float] | None = None
    """CPU and GPU in all, once the autoscaler has added every node it may; None: Ray was not told of any."""

    def __str__(self) -> str:
        lines: dict[str, list[str]] = {}
        for node in self.nodes:
            lines.setdefault(f"{node.cpus:g} CPU, {node.gpus:g} GPU", []).append(node.name)
        said = [
            f"{what} on {names[0] if len(names) == 1 else f'each of {len(names)} nodes'}"
            for what, names in list(lines.items())[:_SHOWN_NODES]
        ]
        more = f"; and {len(lines) - _SHOWN_NODES} other kinds of nodes" if len(lines) > _SHOWN_NODES else ""
        return "; ".join(said) + more if said else "no living node"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What one process has; None where nobody has looked."""

    cuda: bool | None = None
    gpu_bf16: bool | None = None
    deepspeed: bool | None = None
    """The package is installed."""
    compiler: bool | None = None
    """ninja and a C++ compiler, with which DeepSpeed builds its operations on first use."""


def check_workers_fit(
    cluster: ClusterView, *, workers: int, cpus_per_worker: float, use_gpu: bool, wait_for_nodes: bool = False
) -> None:
    """Refuse what the cluster can never give; what is merely in use by others is waited for.

    Args:
        workers: the fewest that the fit may start with.
        wait_for_nodes: nodes may still come of which Ray does not know; then only a limit that Ray was told counts.
    Raises: ClusterError: says what the cluster has and what to set.
    """
    gpus = 1.0 if use_gpu else 0.0
    each = f"{cpus_per_worker:g} CPU" + (" and 1 GPU" if use_gpu else "")
    asked = f"training asks for {workers} worker{'s' if workers > 1 else ''} of {each}"
    if cluster.most is not None:
        most = NodeView(name="all", cpus=cluster.most.get("CPU", 0.0), gpus=cluster.most.get("GPU", 0.0))
        if most.workers(cpus=cpus_per_worker, gpus=gpus) < workers:
            raise ClusterError(
                f"{asked}; with every node that its autoscaler may add, the cluster has {most.cpus:g} CPU and {most.gpus:g} GPU: "
                f"room for {most.workers(cpus=cpus_per_worker, gpus=gpus)}. Ask for less, or raise the autoscaler's limits."
            )
        return
    if wait_for_nodes:
        return
    fit = sum(node.workers(cpus=cpus_per_worker, gpus=gpus) for node in cluster.nodes)
    if fit >= workers:
        return
    waits = "If nodes are still to come, set training.wait_for_nodes=true."
    if use_gpu and not any(node.gpus for node in cluster.nodes):
        raise ClusterError(
            f"{asked}, and the cluster has no GPU ({cluster}). Set training.use_gpu=false, or use a cluster with GPUs. {waits}"
        )
    if not fit:
        raise ClusterError(
            f"{asked}, and no node is large enough for one; the cluster has {cluster}. A worker must fit on one node: lower "
            f"training.cpus_per_worker. {waits}"
        )
    raise ClusterError(
        f"{asked}, and the cluster has room for {fit}: {cluster}. Set training.workers={fit} or less, lower "
        f"training.cpus_per_worker, or add nodes. {waits}"
    )


def check_batch(label: str, batch_windows: int, *, shards: int, chunks: int, spec: DataSpec) -> None:
    """Raises: ConfigError: a shard's part of one step is larger than all it has."""
    slots = -(-chunks * spec.chunk_bars // shards)
    if batch_windows // shards > slots:
        raise ConfigError(
            f"{label}.batch_windows={batch_windows} asks {batch_windows // shards} windows a step of each of {shards} shards, "
            f"each of which holds {slots}. Lower it to {slots * shards} or less."
        )


def check_strategy(
    kind: str,
    *,
    use_gpu: bool,
    precision: Precision = "32",
    offload: bool = False,
    hardware: Hardware | None = None,
) -> None:
    """Refuse what the settings, or this process's hardware, cannot run.

    Args:
        kind: the strategy: ddp, fsdp, deepspeed.
        hardware: of this process; what is None there is not judged.
    Raises: ConfigError.
    """
    has = hardware or Hardware()
    if precision == "fp16" and not use_gpu:
        raise ConfigError(
            "training.precision=fp16 needs a GPU, and training.use_gpu=false. Use bf16, which CPUs compute too, or 32."
        )
    if offload and kind != "deepspeed":
        raise ConfigError(
            f"offload is DeepSpeed's, and training.strategy is {kind}. Set training.strategy.kind=deepspeed, or leave offload out."
        )
    if use_gpu and has.cuda is False:
        raise ConfigError(
            "training.use_gpu=true, and torch sees no CUDA device here, so NCCL cannot run. Install a CUDA build of torch and a "
            "driver on the nodes with GPUs, or set training.use_gpu=false."
        )
    if use_gpu and precision == "bf16" and has.gpu_bf16 is False:
        raise ConfigError(
            "training.precision=bf16, and this GPU cannot compute in bfloat16 (it takes compute capability 8.0 or above). Use "
            "fp16 or 32."
        )
    if kind == "deepspeed" and has.deepspeed is False:
        raise ConfigError(
            "training.strategy deepspeed needs the package deepspeed: pip install 'quantfleet[deepspeed]' on every node."
        )
    if kind == "deepspeed" and offload and has.compiler is False:
        raise ConfigError(
            "offload computes Adam on the CPU with an operation that DeepSpeed builds on first use, and ninja or a C++ compiler "
            "is missing here: apt-get install ninja-build g++ on every node, or set offload=false."
        )


def fit_record(config: ModelConfig, spec: DataSpec, *, seed: int) -> dict[str, Any]:
    """What makes a fit this one and no other, as plain data for a checkpoint to carry; workers may differ, and are left out."""
    return {"model": to_plain(config), "data": spec.to_dict(), "seed": seed}


def check_same_fit(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare what a checkpoint carries with the fit that would go on from it; both as `fit_record` makes them.

    Raises: TrainingError: the checkpoint is of another model; names the first key that differs, with both values.
    """
    old, new = dict(_leaves(recorded)), dict(_leaves(wanted))
    for key in [*new, *(k for k in old if k not in new)]:
        was, now = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if was != now:
            raise TrainingError(
                f"the checkpoint to go on from is of another model: its {key} is {_short(was)}, this fit's is {_short(now)}. Start "
                "the fit under a new name (--set run.name=NAME), or restore what it was started with.",
                key=key,
                recorded=_short(was),
                wanted=_short(now),
            )


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": [1, 2]}}` becomes a.b.0 = 1, a.b.1 = 2; an empty container stays, so that it differs from none."""
    items = list(value.items() if isinstance(value, Mapping) else enumerate(value)) if _nested(value) else []
    if not items:
        yield path, [] if isinstance(value, tuple) else value
    for key, child in items:
        yield from _leaves(child, f"{path}.{key}" if path else str(key))


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_run(training: TrainingConfig) -> None:
    """In the driver, before a trainer is made: the strategy by its settings, the workers by the cluster.

    Raises: ConfigError, ClusterError.
    """
    import ray

    check_strategy(
        training.strategy.kind,
        use_gpu=training.use_gpu,
        precision=training.precision,
        offload=getattr(training.strategy, "offload", False),
        hardware=Hardware(deepspeed=_has_deepspeed()),
    )
    if ray.is_initialized():  # else Train starts one of this machine's own, of which nothing is known yet
        check_workers_fit(
            see_cluster(),
            workers=training.min_workers,
            cpus_per_worker=training.cpus_per_worker,
            use_gpu=training.use_gpu,
            wait_for_nodes=training.wait_for_nodes,
        )


def see_cluster() -> ClusterView:
    """What the connected Ray has. Its autoscaler's limits are known where Ray was told of them, as Ray Train itself asks."""
    import ray
    from ray._private.state import state

    nodes = tuple(
        NodeView(
            name=str(node["NodeManagerAddress"]),
            cpus=float(node["Resources"].get("CPU", 0.0)),
            gpus=float(node["Resources"].get("GPU", 0.0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    )
    return ClusterView(nodes=nodes, most=state.get_max_resources_from_cluster_config())


def see_hardware() -> Hardware:
    """What this process has; imports torch."""
    import torch

    cuda = torch.cuda.is_available()
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    return Hardware(
        cuda=cuda,
        gpu_bf16=cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        deepspeed=_has_deepspeed(),
        compiler=bool(compiler and shutil.which("ninja")),
    )


def _has_deepspeed() -> bool:
    return importlib.util.find_spec("deepspeed") is not None
