"""From chunks to minibatches of windows, each exactly once an epoch on one of the workers; a window is a view until then.

Shapes: P chunks of the segment, B chunks in the buffer, C targets of a chunk, L look-back bars, T = C + L - 1 rows, F features,
K label columns, N windows of a step, S slots (windows of a share).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quantfleet.config import fingerprint
from quantfleet.contracts import Augmenter, ChunkBatch, ChunkIndex, ChunkReader, DataSpec, TrainingWindows
from quantfleet.errors import ConfigError, TrainingError
from quantfleet.training.data_state import DataState, EpochPlan, Group, pack_losses, shards_of, unpack_losses
from quantfleet.training.patience import patiently
from quantfleet.training.sampling import SamplingConfig, UniformSampling
from quantfleet.transforms import InputTransform

__all__ = ["CachedChunks", "WindowBatch", "WindowLoader", "chunk_bytes", "gather_windows"]


class WindowBatch(NamedTuple):
    """One step's input. Targets with mask false (padding, purged, incomplete window) weigh nothing."""

    x_NLF: Tensor
    y_NK: Tensor
    mask_N: Tensor
    place_N: Tensor
    """Place of each window's chunk in its segment; -1 in padding."""
    weight_N: Tensor
    """Sample weights as the chunks hold them, see `ChunkBatch.weight_BC`."""


def chunk_bytes(spec: DataSpec) -> int:
    """Memory of one chunk's arrays, bytes."""
    per_target = 4 * len(spec.label_columns) + 8 + 4 + 1
    return 4 * spec.chunk_rows * spec.features + spec.chunk_bars * per_target


def gather_windows(
    x_BTF: Tensor, chunk_N: Tensor, target_N: Tensor, lookback_bars: int, out: Tensor | None = None
) -> Tensor:
    """Copy the windows of targets out of their chunks, (N, L, F).

    Windows overlap in memory as rows of a strided view, so that each is copied as one stretch of bytes and none exists before.

    Args:
        x_BTF: each chunk contiguous.
        out: memory to write into, (N, L, F), contiguous.
    """
    B, T, F = x_BTF.shape
    width = lookback_bars * F
    apart = x_BTF.stride(0)  # chunks may lie apart, as in records; their rows may not
    windows = x_BTF.as_strided(((B - 1) * apart + (T * F) - width + 1, width), (1, 1))
    first_N = chunk_N * apart + target_N * F
    flat = torch.empty(len(first_N), width, dtype=x_BTF.dtype) if out is None else out.view(len(first_N), width)
    torch.index_select(windows, 0, first_N, out=flat)
    return flat.view(-1, lookback_bars, F)


@dataclass(frozen=True)
class _Held:
    """The chunks of a buffer as the network reads them."""

    chunks: ChunkBatch
    x_BTF: Tensor
    y_BCK: Tensor
    lookback_bars: int

    def windows(self, chunk_N: npt.NDArray[np.int64], target_N: npt.NDArray[np.int64]) -> TrainingWindows:
        """The windows of these targets, unchanged."""
        chunk, target = torch.from_numpy(chunk_N), torch.from_numpy(target_N)
        return TrainingWindows(
            x_NLF=gather_windows(self.x_BTF, chunk, target, self.lookback_bars).numpy(),
            y_NK=self.y_BCK[chunk, target].numpy(),
            mask_N=self.chunks.mask_BC[chunk_N, target_N],
            chunk_id_N=self.chunks.chunk_id_B[chunk_N],
            target_N=target_N,
        )


class CachedChunks:
    """A reader that keeps what it read, for segments that are small and far away. Thread-safe."""

    def __init__(self, reader: ChunkReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._kept_P: ChunkBatch | None = None
        self._known_P = np.zeros(len(reader), np.bool_)
        self.spec, self.content, self.local = reader.spec, reader.content, True

    def __len__(self) -> int:
        return len(self._reader)

    def index(self) -> ChunkIndex:
        return self._reader.index()

    def take(self, place_B: npt.NDArray[np.int64]) -> ChunkBatch:
        with self._lock:
            missing = np.unique(place_B[~self._known_P[place_B]])
            if len(missing) or self._kept_P is None:
                self._keep(missing, self._reader.take(missing))
            assert self._kept_P is not None
            return ChunkBatch(**{f.name: getattr(self._kept_P, f.name)[place_B] for f in fields(ChunkBatch)})

    def _keep(self, places: npt.NDArray[np.int64], batch: ChunkBatch) -> None:
        if self._kept_P is None:  # memory is taken page by page as it is first written
            arrays = {f.name: getattr(batch, f.name) for f in fields(ChunkBatch)}
            self._kept_P = ChunkBatch(**{k: np.empty((len(self), *a.shape[1:]), a.dtype) for k, a in arrays.items()})
        for f in fields(ChunkBatch):
            getattr(self._kept_P, f.name)[places] = getattr(batch, f.name)
        self._known_P[places] = True


class WindowLoader:
    """Iterable of one worker's WindowBatches, one epoch after another; every worker makes equally many steps.

    All workers build the same plan from the same arguments, so nothing is sent between them. A minibatch holds the windows of
    all shards that the worker serves (`shards_of`). The next group of chunks is read by a thread while this one is used.
    Memory: two buffers of chunks for each shard served and a minibatch, whatever the size of the table; the index of the segment
    and the order of the epoch on top, some 40 bytes a chunk.

    Args:
        reader: the segment's chunks.
        batch_windows: windows of one step over all workers together; divides by the shards.
        buffer_chunks: chunks that each shard holds at a time and shuffles within.
        seed: None reads every chunk once, in order (evaluation).
        shards: parts that the data are dealt in, whatever the number of workers; as many as workers when None.
        sampling: which chunks an epoch takes; uniform when None.
        state: where an earlier loader of the same plan stood, maybe with another number of workers.
        reuse_batches: the next minibatch overwrites this one's `x_NLF`, which stays in the processor's cache: half the time. For
            loops that are done with a minibatch before they ask for the next; nothing may fetch ahead.
        inputs: scales and selects the rows of every chunk once, in the reading thread, before windows are cut; None: raw.
        augmenter: changes the windows; for training only.
        retry_s: how long a read is tried again while the storage does not answer.
    Raises: TrainingError: the state belongs to another plan. ConfigError: the sampling does not fit the chunks, the batch does not
        divide by the shards, there are more workers than shards, or an augmenter comes without a seed, as evaluation does.
    """

    def __init__(
        self,
        reader: ChunkReader,
        *,
        batch_windows: int,
        buffer_chunks: int,
        seed: int | None,
        shards: int | None = None,
        sampling: SamplingConfig | None = None,
        workers: int = 1,
        rank: int = 0,
        state: DataState | None = None,
        reuse_batches: bool = False,
        inputs: InputTransform | None = None,
        augmenter: Augmenter | None = None,
        retry_s: float = 0.0,
    ) -> None:
        if augmenter is not None and seed is None:
            raise ConfigError(
                "a loader that reads in order, as evaluation does, was given augmentations. What is judged must be judged as it "
                "is: leave them out, or give a seed."
            )
        self._reader = reader
        self._shards = shards or workers
        self._own = shards_of(rank, workers=workers, shards=self._shards)
        if batch_windows % self._shards:
            raise ConfigError(
                f"a step of {batch_windows} windows does not part into {self._shards} equal shards; "
                f"use {max(1, batch_windows // self._shards) * self._shards}."
            )
        self._step_windows = batch_windows // self._shards
        self._buffer_chunks = buffer_chunks
        self._seed = seed
        self._sampling = sampling or UniformSampling()
        self._workers = workers
        self._rank = rank
        self._reuse = reuse_batches
        self._inputs = inputs
        self._augmenter = augmenter
        self._retry_s = retry_s
        self._spec = reader.spec if inputs is None else inputs.spec
        self._reused: Tensor | None = None
        self._observed_2P = np.zeros((2, len(reader)), np.float64) if self._sampling.needs_losses else None
        plan = fingerprint(
            "epoch plan", reader.content, len(reader), self._sampling, seed, self._shards, buffer_chunks, batch_windows
        )
        if state is not None and state.plan != plan:
            raise TrainingError(
                f"the data state of epoch {state.epoch} belongs to other chunks, another sampling, another seed or other shards "
                "than this fit's. Start the fit under a new name, or restore what it was started with."
            )
        self._state = state or DataState(plan=plan)
        self._plan = self._plan_epoch()
        self._restore_observed()

    @property
    def epoch(self) -> int:
        return self._state.epoch

    @property
    def steps(self) -> int:
        """Steps of the whole epoch."""
        return self._plan.steps

    @property
    def share(self) -> float:
        """This worker's windows of a step, divided by those of a worker if all had equally many."""
        return len(self._own) * self._workers / self._shards

    def __len__(self) -> int:
        """Steps that are left of this epoch."""
        return self._plan.steps - self._state.step

    def state(self, observed_2P: Tensor | None = None) -> DataState:
        """Where training stands when every minibatch handed out so far is trained on; equal on every worker.

        Args: observed_2P: `observed`, added up over all workers, where the sampling asks for losses.
        """
        if not len(self) and len(self._reader):
            return self._state.next_epoch(self._mixed(observed_2P))
        if observed_2P is None:
            return self._state
        return replace(self._state, observed=pack_losses(_means(observed_2P.numpy())))

    def start_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; where the state stands inside that epoch already, go on from there."""
        if epoch != self._state.epoch:
            self._move(DataState(plan=self._state.plan, epoch=epoch, losses=self._state.losses))

    def observe(self, place_N: Tensor, loss_N: Tensor) -> None:
        """Take the losses of counted windows of a step, for samplers that weigh chunks by their last loss."""
        if self._observed_2P is not None:
            places = place_N.numpy()
            np.add.at(self._observed_2P[0], places, loss_N.numpy())
            np.add.at(self._observed_2P[1], places, 1.0)

    def observed(self) -> Tensor | None:
        """Sums of losses and counts per chunk on this worker, (2, P), to be added up over the workers; None: nothing asked."""
        return None if self._observed_2P is None else torch.from_numpy(self._observed_2P.copy())

    def end_epoch(self, observed_2P: Tensor | None = None) -> None:
        """Go to the next epoch. Args: observed_2P: `observed`, added up over all workers."""
        self._move(self._state.next_epoch(self._mixed(observed_2P)))

    def __iter__(self) -> Iterator[WindowBatch]:
        if not len(self) and len(self._reader):
            self.end_epoch()
        plan, groups = self._plan, self._plan.groups(self._state.step)
        with ThreadPoolExecutor(1, thread_name_prefix="chunk-reader") as pool:
            group = next(groups, None)
            reading = None if group is None else pool.submit(self._read, group)
            while group is not None and reading is not None:
                part_VS, numbers, chunks = reading.result()
                following = next(groups, None)
                reading = None if following is None else pool.submit(self._read, following)
                yield from self._minibatches(part_VS, numbers, chunks, self._state.step - group.first_step)
                if self._plan is not plan:  # moved to another epoch by whoever asks
                    return
                group = following

    def _plan_epoch(self) -> EpochPlan:
        state, chunks = self._state, len(self._reader)
        if self._seed is None:
            order = np.arange(chunks, dtype=np.int64)
        else:
            losses = unpack_losses(state.losses, chunks)
            order = self._sampling.order(self._reader.index(), losses, seed=self._seed, epoch=state.epoch)
        return EpochPlan(
            order,
            self._reader.spec.chunk_bars,
            self._seed,
            state.epoch,
            shards=self._shards,
            buffer_chunks=self._buffer_chunks,
            step_windows=self._step_windows,
        )

    def _move(self, state: DataState) -> None:
        self._state = state
        if self._observed_2P is not None:
            self._observed_2P[:] = 0.0
        self._plan = self._plan_epoch()

    def _restore_observed(self) -> None:
        """Take up what this epoch's steps before a restart had seen; one worker holds it for all."""
        if self._observed_2P is not None and self._rank == 0:
            seen_P = unpack_losses(self._state.observed, len(self._reader))
            known_P = np.isfinite(seen_P)
            self._observed_2P[0][known_P], self._observed_2P[1][known_P] = seen_P[known_P], 1.0

    def _mixed(self, observed_2P: Tensor | None) -> npt.NDArray[np.float32] | None:
        """The last known loss of every chunk: of this epoch where it was seen, else of an earlier one."""
        if observed_2P is None:
            return None
        losses_P, seen_P = unpack_losses(self._state.losses, len(self._reader)), _means(observed_2P.numpy())
        return np.where(np.isfinite(seen_P), seen_P, losses_P)

    def _read(self, group: Group) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], ChunkBatch]:
        """This worker's parts of a group, the numbers in the order of the chunks they read, and their contents."""
        part_VS = self._plan.parts(group, self._own)
        numbers = np.unique(part_VS[part_VS >= 0] // self._reader.spec.chunk_bars)
        if not len(numbers):  # nothing but padding, which shows some chunk without counting it
            numbers = np.array([group.first], np.int64)
        places = self._plan.order_Q[numbers]
        chunks = patiently(lambda: self._reader.take(places), "reading chunks", seconds=self._retry_s)
        if self._inputs is not None:
            chunks = replace(chunks, x_BTF=self._inputs.apply(chunks.x_BTF, chunks.symbol_id_B))
        return part_VS, numbers, chunks

    def _minibatches(
        self, part_VS: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64], chunks: ChunkBatch, skip_steps: int
    ) -> Iterator[WindowBatch]:
        spec = self._spec
        counted_VS = part_VS >= 0
        number_VS, target_VS = np.divmod(np.where(counted_VS, part_VS, numbers[0] * spec.chunk_bars), spec.chunk_bars)
        chunk_VS = np.searchsorted(numbers, number_VS)
        weight_VS = chunks.weight_BC[chunk_VS, target_VS]
        place_VS = np.where(counted_VS, self._plan.order_Q[number_VS], -1)
        mask_VS = chunks.mask_BC[chunk_VS, target_VS] & counted_VS
        held = _Held(chunks, torch.from_numpy(chunks.x_BTF), torch.from_numpy(chunks.y_BCK), spec.lookback_bars)
        for first in range(skip_steps * self._step_windows, part_VS.shape[1], self._step_windows):
            at = (slice(None), slice(first, first + self._step_windows))
            chunk_N, target_N = chunk_VS[at].reshape(-1), target_VS[at].reshape(-1)
            chunk, target = torch.from_numpy(chunk_N), torch.from_numpy(target_N)
            batch = WindowBatch(
                x_NLF=gather_windows(held.x_BTF, chunk, target, spec.lookback_bars, self._memory(len(chunk))),
                y_NK=held.y_BCK[chunk, target],
                mask_N=torch.from_numpy(mask_VS[at].reshape(-1)),
                place_N=torch.from_numpy(place_VS[at].reshape(-1)),
                weight_N=torch.from_numpy(weight_VS[at].reshape(-1)),
            )
            if self._augmenter is not None:
                batch = self._augmented(batch, held, chunk_N, target_N)
            self._state = self._state.taken()
            yield batch

    def _augmented(
        self, batch: WindowBatch, held: _Held, chunk_N: npt.NDArray[np.int64], target_N: npt.NDArray[np.int64]
    ) -> WindowBatch:
        assert self._augmenter is not None
        windows = TrainingWindows(
            x_NLF=batch.x_NLF.numpy(),
            y_NK=batch.y_NK.numpy(),
            mask_N=batch.mask_N.numpy(),
            chunk_id_N=held.chunks.chunk_id_B[chunk_N],
            target_N=target_N,
        )
        made = self._augmenter.augment(
            windows,
            segment="train",
            epoch=self._state.epoch,
            neighbours=lambda wanted_N: held.windows(chunk_N, wanted_N),
        )
        return batch._replace(x_NLF=torch.from_numpy(made.x_NLF), y_NK=torch.from_numpy(made.y_NK))

    def _memory(self, windows: int) -> Tensor | None:
        if not self._reuse:
            return None
        if self._reused is None:
            most = len(self._own) * self._step_windows
            self._reused = torch.empty(most, self._spec.lookback_bars, self._spec.features)
        return self._reused[:windows]


def _means(observed_2P: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Mean loss of each chunk, NaN where none was seen."""
    total_P, count_P = observed_2P
    mean_P: npt.NDArray[np.float64] = np.full(len(total_P), np.nan)
    np.divide(total_P, count_P, out=mean_P, where=count_P > 0)
    return mean_P.astype(np.float32)
