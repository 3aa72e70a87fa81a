"""Exactly-once data: which windows of an epoch were taken, and a pure plan of what every step takes.

An epoch is an order of chunks, and the order depends on the seed and the epoch alone. It is parted among a fixed number of
shards, not among the workers: group after group of `shards x buffer_chunks` chunks, each group dealt in equal parts, each part
shuffled by a seed of its own. A step takes equally many windows of every shard, and a worker serves one shard or several. So the
windows of a step, the order of steps and the global batch are the same on 1, 3 or 64 workers, and one number, the step, says
to the window what was consumed; workers may come and go between two steps. (MosaicML's StreamingDataset does the same with
"canonical nodes".)

Shapes: Q chunks of the epoch, C targets of a chunk, V shards, S slots: number of a chunk in the order x C + target.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.errors import ConfigError, TrainingError

__all__ = ["PADDING", "DataState", "EpochPlan", "Group", "shards_of"]

Slots = npt.NDArray[np.int64]
PADDING = -1
"""Slot of a window that counts for nothing; the parts of an epoch's last group end with fewer of them than there are shards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataState:
    """Where training stands in its data: compact, equal on every worker, stored in each checkpoint."""

    plan: str
    """Digest of chunks, sampling, seed, shards, buffer and batch; a state is of no use to another plan."""
    epoch: int = 0
    step: int = 0
    """Steps of this epoch that were taken."""
    losses: str = ""
    """Last loss of each chunk before this epoch, packed by `pack_losses`, where the sampling asks for it: it decides the order."""
    observed: str = ""
    """Losses seen in this epoch so far, packed by `pack_losses`: they will decide the order of the next one."""

    def taken(self) -> DataState:
        """The state one step later."""
        return replace(self, step=self.step + 1)

    def next_epoch(self, losses: npt.NDArray[np.float32] | None = None) -> DataState:
        """The start of the next epoch, whose order `losses` (one per chunk of the segment, NaN unknown) may shape."""
        packed = self.losses if losses is None else pack_losses(losses)
        return DataState(plan=self.plan, epoch=self.epoch + 1, losses=packed)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> DataState:
        """Raises: TrainingError: the record is not what `to_dict` made."""
        try:
            state = cls(**record)
            counts, texts = [state.epoch, state.step], [state.plan, state.losses, state.observed]
            if not all(isinstance(n, int) and n >= 0 for n in counts) or not all(isinstance(t, str) for t in texts):
                raise ValueError(f"a count is negative or no whole number: epoch {state.epoch}, step {state.step}")
        except (TypeError, ValueError) as error:
            raise TrainingError(
                f"this is no stored data state ({type(error).__name__}: {error}). Take it from the checkpoint again."
            ) from error
        return state

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)


def pack_losses(losses_P: npt.NDArray[np.float32]) -> str:
    """Losses as text, in half precision: some 2 bytes a chunk."""
    halves = np.clip(losses_P, 0.0, np.finfo(np.float16).max).astype("<f2")
    return base64.b64encode(zlib.compress(halves.tobytes())).decode()


def unpack_losses(text: str, chunks: int) -> npt.NDArray[np.float32]:
    """Losses of a segment's chunks, NaN where none is known. Raises: TrainingError: they are of another segment."""
    if not text:
        return np.full(chunks, np.nan, np.float32)
    try:
        halves = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), "<f2")
    except (binascii.Error, zlib.error, ValueError) as error:
        raise TrainingError(
            f"the losses in this data state cannot be read: {error}. Take it from the checkpoint again."
        ) from error
    if len(halves) != chunks:
        raise TrainingError(f"this data state holds losses of {len(halves)} chunks; the segment has {chunks}.")
    return halves.astype(np.float32)


def shards_of(rank: int, *, workers: int, shards: int) -> range:
    """The shards that a worker serves: neighbours, and as even as whole shards allow.

    Raises: ConfigError: there are more workers than shards, so that some would have nothing to do.
    """
    if workers > shards:
        raise ConfigError(
            f"{workers} workers cannot share the data of {shards} shards. Set training.shards to {workers} or a multiple of it."
        )
    return range(rank * shards // workers, (rank + 1) * shards // workers)


@dataclass(frozen=True, slots=True)
class Group:
    """Whole chunks [first, last) of the order, which the shards deal among themselves."""

    number: int
    first: int
    last: int
    part_windows: int
    """Windows of each shard's part, padding included."""
    first_step: int
    """Step of the epoch at which it begins."""
    steps: int


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """Which shard takes which window at which step. No I/O; equal arguments give equal answers on every machine.

    Args:
        order_Q: places of the chunks in the order of the epoch.
        chunk_bars: C.
        seed: shuffles each part; None keeps the order, so that evaluation reads straight through.
        epoch: its number, from 0.
        shards: V.
        buffer_chunks: chunks that a shard holds at a time and shuffles within.
        step_windows: windows of one shard in one step; a group's last step may have fewer.
    """

    order_Q: Slots
    chunk_bars: int
    seed: int | None
    epoch: int
    shards: int
    buffer_chunks: int
    step_windows: int

    @property
    def steps(self) -> int:
        """Steps of the epoch, the same for every worker."""
        full, rest = divmod(len(self.order_Q), self._group_chunks)
        return full * self._group_steps(self._group_chunks) + (self._group_steps(rest) if rest else 0)

    def group_at(self, step: int) -> Group:
        """The group that a step belongs to. Raises: TrainingError: the epoch has no such step."""
        if not 0 <= step < self.steps:
            raise TrainingError(
                f"the data state stands at step {step}, and epoch {self.epoch} of {len(self.order_Q)} chunks has {self.steps} "
                "steps; it belongs to other chunks, or to another sampling."
            )
        per_group = self._group_steps(self._group_chunks)
        return self._group(step // per_group)

    def groups(self, step: int = 0) -> Iterator[Group]:
        """The groups from the one of a step on."""
        if step < self.steps:
            for number in range(self.group_at(step).number, -(-len(self.order_Q) // self._group_chunks)):
                yield self._group(number)

    def parts(self, group: Group, shards: range) -> Slots:
        """Slots of these shards' parts in the order of training, padding last, (shards, part_windows)."""
        each, C = group.part_windows, self.chunk_bars
        low, high = group.first * C, group.last * C
        made = np.full((len(shards), each), PADDING, np.int64)
        for row, shard in zip(made, shards, strict=True):
            part = np.arange(min(low + shard * each, high), min(low + (shard + 1) * each, high), dtype=np.int64)
            if self.seed is not None:
                part = np.random.default_rng((self.seed, self.epoch, group.number, shard)).permutation(part)
            row[: len(part)] = part
        return made

    def consumed(self, step: int) -> Slots:
        """Places of the chunks of which no window is left after so many steps, in the order of the epoch."""
        if step >= self.steps:
            return self.order_Q
        group = self.group_at(step)
        done = np.zeros(group.last, np.bool_)
        done[: group.first] = True
        windows = (step - group.first_step) * self.step_windows
        left = self.parts(group, range(self.shards))[:, windows:]
        begun = np.ones(group.last - group.first, np.bool_)
        begun[left[left >= 0] // self.chunk_bars - group.first] = False
        done[group.first :] = begun
        return self.order_Q[: group.last][done]

    @property
    def _group_chunks(self) -> int:
        return self.shards * self.buffer_chunks

    def _part_windows(self, chunks: int) -> int:
        return -(-chunks * self.chunk_bars // self.shards)

    def _group_steps(self, chunks: int) -> int:
        return -(-self._part_windows(chunks) // self.step_windows)

    def _group(self, number: int) -> Group:
        first = number * self._group_chunks
        last = min(first + self._group_chunks, len(self.order_Q))
        return Group(
            number=number,
            first=first,
            last=last,
            part_windows=self._part_windows(last - first),
            first_step=number * self._group_steps(self._group_chunks),
            steps=self._group_steps(last - first),
        )
