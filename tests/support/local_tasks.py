"""Stands in for Ray Data in tests of what a job commits: the same tasks, one after the other, in this process."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from typing import Any

import polars as pl
import pyarrow as pa
from data.conftest import random_bars
from deltalake import write_deltalake

from quantfleet.config import fingerprint
from quantfleet.contracts import FeatureSet
from quantfleet.storage import Storage, StorageConfig
from quantfleet_data import label_table
from quantfleet_data.feature_store import offline, write_features
from quantfleet_data.features.returns import LogReturn
from quantfleet_data.labels import ForwardReturn, LabelsConfig
from support.gang import PRELOADED

FEATURES = FeatureSet(name="plain", version=1, features=(LogReturn(bars=1), LogReturn(bars=3)))
LABELS = LabelsConfig(families=(ForwardReturn(horizons_bars=(2,)),))
SYMBOLS = ("A", "B", "C")
ROWS = 40
"""Bars of each symbol in generation 0."""


@dataclass(frozen=True)
class LocalTasks:
    """What `per_symbol` returns, as far as the jobs use it."""

    rows: Sequence[dict[str, Any]]
    made: Callable[[pa.Table], Any] | None = None

    def map(self, work: Callable[[dict[str, Any]], dict[str, Any]]) -> LocalTasks:
        return LocalTasks([work(dict(row)) for row in self.rows])

    def take_all(self) -> list[dict[str, Any]]:
        return list(self.rows)

    def map_batches(self, work: Callable[[pa.Table], Any], **_: Any) -> LocalTasks:
        return LocalTasks(self.rows, work)

    def write_delta(self, uri: str, *, mode: Any, partition_by: list[str], storage_options: dict[str, str]) -> None:
        """One commit, as Ray's driver makes it."""
        assert self.made is not None
        made = (self.made(pa.Table.from_pylist([row])) for row in self.rows)
        tables = list(itertools.chain.from_iterable([one] if isinstance(one, pa.Table) else one for one in made))
        how = str(mode.value)
        write_deltalake(
            uri, pa.concat_tables(tables), mode=how, partition_by=partition_by, storage_options=storage_options
        )  # type: ignore[call-overload]


def run_here() -> None:
    """From now on this process's feature and label jobs run without Ray."""
    for module in (offline, label_table):
        module.per_symbol = lambda symbols: LocalTasks([{"symbol": symbol} for symbol in symbols])  # type: ignore[assignment]


@dataclass(frozen=True)
class GrowingBars:
    """Bars of a generation: A has one more in each, B's first close is another in each, C stays."""

    storage: Storage
    generation: int
    timeframe: str = "1d"
    symbols: tuple[str, ...] = field(default=SYMBOLS)

    @property
    def version(self) -> int:
        return self.generation

    @property
    def fingerprint(self) -> str:
        return fingerprint("generation", self.generation)

    def read(self, symbol: str) -> pl.DataFrame:
        bars = random_bars(ord(symbol), rows=ROWS + (self.generation if symbol == "A" else 0), symbol=symbol)
        moved = pl.col("close") * (1.0 + self.generation * (symbol == "B") / 1000)
        return bars.with_columns(close=pl.when(pl.int_range(pl.len()) == 0).then(moved).otherwise("close"))


def write(root: str, job: str, generation: int) -> None:
    bars = GrowingBars(Storage(StorageConfig(root=root)), generation)
    if job == "features":
        write_features(bars, FEATURES)
    else:
        label_table.write_labels(bars, LABELS)  # type: ignore[arg-type]


def write_for_ever(root: str, job: str, generation: int, said: Any) -> None:
    """Write generation after generation; each is said before it begins."""
    run_here()
    while True:
        said.send(generation)
        write(root, job, generation)
        generation += 1


def write_once(root: str, job: str, generation: int, start: Any, said: Any) -> None:
    """Write one generation at a signal; say what came of it."""
    run_here()
    start.wait()
    try:
        write(root, job, generation)
    except Exception as error:
        said.send(f"{type(error).__name__}: {error}")
    else:
        said.send("finished")


def processes() -> ForkServerContext:
    """Processes that start in a moment: their modules are loaded once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context
