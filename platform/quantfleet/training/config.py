"""How a fit is spread over workers: counts, resources, strategy, checkpoints, and what is done about each fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from quantfleet.errors import ConfigError
from quantfleet.training.sampling import SamplingConfig, UniformSampling
from quantfleet.training.strategies import DDPConfig, StrategyConfig
from quantfleet.training.strategies.base import Precision

__all__ = ["CheckpointsConfig", "FaultsConfig", "TrainingConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointsConfig:
    """When the state of a fit is saved, and how long it is kept. The end of an epoch always saves it."""

    every_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds between checkpoints in the middle of an epoch: the most work that a lost worker costs."""
    every_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between them instead, for tests and very even steps."""
    keep: Annotated[int, Field(ge=1)] = 2
    """The newest whole states of the fit that are kept: more than one, so that a torn one has a predecessor."""
    keep_best: Annotated[int, Field(ge=1)] = 1
    """Weights of the best epochs, by validation loss, that are kept beside them, as safetensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultsConfig:
    """What is done when something breaks; docs/faults.md has the table."""

    max_failures: Annotated[int, Field(ge=0)] = 3
    """How many times lost workers, or a lost controller, are replaced and the fit goes on from its last checkpoint."""
    max_preemptions: Annotated[int, Field(ge=-1)] = -1
    """How many nodes taken away with notice are borne besides; -1: any number."""
    max_bad_steps: Annotated[int, Field(ge=0)] = 5
    """Steps in a row whose gradient is not finite, which are skipped and logged, before the fit stops and says why."""
    storage_retry_s: Annotated[float, Field(ge=0)] = 120.0
    """How long reads and writes on the storage are tried again while it does not answer."""
    collective_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """A worker that waits longer for the others counts as hung: the workers are replaced."""
    straggler_factor: Annotated[float, Field(gt=1)] = 2.0
    """A worker whose own work takes so many times the median of all is named in a warning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Ray Train settings shared by every model of a run."""

    workers: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = 2
    """How many; or [least, most]: the fit shrinks when workers are lost, grows when they return, and keeps its global batch."""
    shards: Annotated[int, Field(ge=1)] | None = None
    """Parts that the data are dealt in; the most workers when not given. A fit's steps are the same on any number of workers up
    to this, so give it where runs on different numbers are to be compared."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    use_gpu: bool = False
    resize_every_s: Annotated[float, Field(gt=0)] = 60.0
    """How often an elastic fit looks for room to grow, seconds; growing costs what was done since the last checkpoint."""

    strategy: StrategyConfig = field(default_factory=DDPConfig)
    precision: Precision = "32"
    """bf16 and fp16 compute in half precision and keep weights and optimizer in float32."""
    micro_windows: Annotated[int, Field(ge=1)] | None = None
    """Most windows of one forward and backward pass on a worker; a larger share of a step is done in pieces whose gradients add
    up. None: the whole share at once."""
    recompute: bool = False
    """Activation checkpointing: layers are computed again in the backward pass instead of kept."""
    compile: bool = False
    """torch.compile the network."""
    deterministic: bool = False
    """Refuse operations whose result may differ from run to run."""

    wait_for_nodes: bool = False
    """The cluster adds nodes when they are asked for: a request larger than it is today waits, instead of being refused."""
    sampling: SamplingConfig = field(default_factory=UniformSampling)
    """Which chunks an epoch of a torch model takes, and in which order."""
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)

    cache_mb: Annotated[int, Field(ge=0)] = 512
    """A worker keeps the chunks of a remote segment no larger than this in memory, megabytes; larger ones are read anew each
    epoch. Local chunks are mapped, and the operating system keeps them."""

    report_every_s: Annotated[float, Field(gt=0)] = 2.0
    """How often a fit says where it stands, between its epochs."""
    profile_steps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    """`[first, count]`: rank 0 records a profiler trace of so many steps, from this one on, into the run's folder."""

    def __post_init__(self) -> None:
        if self.cpus_per_worker >= 1 and self.cpus_per_worker != int(self.cpus_per_worker):
            raise ConfigError(
                f"cpus_per_worker={self.cpus_per_worker}: Ray gives whole cores above 1; write {int(self.cpus_per_worker)}."
            )
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise ConfigError(
                f"training.workers={list(self.workers)} asks for at least {self.workers[0]} and at most {self.workers[1]}; "
                "write the smaller number first."
            )
        if self.shards is not None and self.shards < self.max_workers:
            raise ConfigError(
                f"training.shards={self.shards} is fewer than the {self.max_workers} workers, some of which would have no data; "
                f"use {self.max_workers} or more."
            )

    @property
    def elastic(self) -> bool:
        return isinstance(self.workers, tuple)

    @property
    def min_workers(self) -> int:
        return self.workers[0] if isinstance(self.workers, tuple) else self.workers

    @property
    def max_workers(self) -> int:
        return self.workers[1] if isinstance(self.workers, tuple) else self.workers

    @property
    def data_shards(self) -> int:
        """V, into how many parts the data are dealt."""
        return self.shards or self.max_workers
