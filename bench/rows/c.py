"""C: random windows of 60 bars x 60 features in minibatches of 512, against a slicing Dataset behind torch's DataLoader.

Ours is the path a training worker takes: a chunk store on disk, a seeded plan of the epoch, chunks mapped and copied into buffers
by the loader's thread, windows gathered from the buffer. The peer slices one array in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench.harness import BenchRow, Prepared
from quantfleet.contracts import SEGMENTS, DataSpec
from quantfleet.storage import Storage, StorageConfig
from quantfleet.training.windows import WindowLoader
from quantfleet_data.chunks import ChunkCutter
from quantfleet_data.chunks.build import SymbolRows
from quantfleet_data.chunks.records import SegmentReader, npy_bytes, to_records

LOOKBACK, FEATURES, BATCH = 60, 60, 512
WINDOWS = 131_072
SPEC = DataSpec(
    symbols=("A",), feature_columns=tuple(f"f{i}" for i in range(FEATURES)), feature_digest="", horizons_bars=(1,),
    timeframe="1m", lookback_bars=LOOKBACK, chunk_bars=1024,
)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """The same rows as one array and as a chunk store; the label of target i is i."""

    folder: tempfile.TemporaryDirectory[str]
    x_RF: torch.Tensor
    y_RK: torch.Tensor
    reader: SegmentReader

    def loader(self) -> WindowLoader:
        return WindowLoader(self.reader, batch_windows=BATCH, buffer_chunks=32, seed=1, reuse_batches=True)


def make() -> Data:
    rng = np.random.default_rng(0)
    R = WINDOWS + LOOKBACK - 1
    x_RF = rng.standard_normal((R, FEATURES), np.float32)
    y_RK = np.repeat(np.arange(-LOOKBACK + 1, WINDOWS, dtype=np.float32)[:, None], 3, axis=1)
    target_R = np.arange(R) >= LOOKBACK - 1
    rows = SymbolRows(
        time_R=np.arange(R) * 60_000_000, x_RF=x_RF, y_RK=y_RK,
        target_R={s: target_R & (s == "train") for s in SEGMENTS},
        weight_R=np.ones(R, np.float32), regime_R=np.zeros(R, np.int16),
    )  # fmt: skip
    folder = tempfile.TemporaryDirectory(prefix="quantfleet-bench-c-")
    storage = Storage(StorageConfig(root=folder.name))
    batch, index = ChunkCutter("train", 0, SPEC).push(rows, last=True)
    storage.write_bytes("c/train/part.npy", npy_bytes(to_records(batch, SPEC)))
    storage.write_bytes("c/train/index.npy", npy_bytes(index_of(index)))
    reader = SegmentReader(storage, "c", SPEC, "train", (("train/part.npy", len(index)),))
    return Data(folder, torch.from_numpy(x_RF), torch.from_numpy(y_RK[LOOKBACK - 1 :].copy()), reader)


def index_of(index: object) -> np.ndarray:
    from quantfleet_data.chunks.records import index_records

    return index_records(index)  # type: ignore[arg-type]


def epoch(data: Data) -> Callable[[], float]:
    """One epoch of the production loader; gives the sum of its labels, so that nothing may be left out."""
    loader = data.loader()

    def run() -> float:
        return sum(float(batch.y_NK[:, 0].double().sum()) for batch in loader)

    return run


class Sliced(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What is usually written: a window is a slice, and the DataLoader stacks 512 of them."""

    def __init__(self, data: Data) -> None:
        self._x, self._y = data.x_RF, data.y_RK

    def __len__(self) -> int:
        return WINDOWS

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._x[i : i + LOOKBACK], self._y[i]


def check_windows(data: Data) -> None:
    """Every target once, every window the rows it should be, the order shuffled."""
    seen = np.zeros(WINDOWS, np.int64)
    rising = 0
    for batch in data.loader():
        label = batch.y_NK[:, 0].long()
        seen[label.numpy()] += 1
        rising += int((label.diff() == 1).sum())
        rows = label[:, None] + torch.arange(LOOKBACK)
        assert batch.mask_N.all()
        assert torch.equal(batch.x_NLF, data.x_RF[rows])
    assert (seen == 1).all(), "every window exactly once"
    assert rising < WINDOWS // 1000, "in random order"


def prepare() -> Prepared:
    torch.set_num_threads(1)
    data = make()

    def peer() -> float:
        batches = DataLoader(Sliced(data), batch_size=BATCH, shuffle=True)
        return sum(float(y[:, 0].double().sum()) for _, y in batches)

    def check(ours: float, theirs: float) -> None:
        assert ours == theirs == WINDOWS * (WINDOWS - 1) / 2, (ours, theirs)
        check_windows(data)

    return Prepared(
        ours=epoch(data), peer=peer, check=check, ours_units=WINDOWS, peer_units=WINDOWS, close=data.folder.cleanup
    )


ROW = BenchRow(
    id="C",
    work=f"one random {LOOKBACK}x{FEATURES} float32 window, minibatches of {BATCH}",
    peer="torch DataLoader over a slicing Dataset",
    target=1 / 4.5,
    prepare=prepare,
    versions=("torch", "numpy"),
)
