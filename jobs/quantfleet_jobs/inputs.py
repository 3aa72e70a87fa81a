"""What several stages read of earlier ones, opened the same way everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow.dataset as pads

from quantfleet.config import fingerprint
from quantfleet.contracts import Segment, SplitPlan
from quantfleet.storage import LakeTable, Storage, TableVersion
from quantfleet_data.book_table import BookBeside
from quantfleet_data.chunks import ChunkStore
from quantfleet_data.feature_store import BarContext
from quantfleet_data.index_table import IndexContext
from quantfleet_data.instruments import InstrumentVersions
from quantfleet_data.quality_table import CheckedBars
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.record import StageRecord
from quantfleet_jobs.stage import StageContext

__all__ = [
    "bar_context",
    "checked_bars",
    "chunk_store",
    "instrument_versions",
    "labels_table",
    "open_bars",
    "read_predictions",
    "split_plan",
    "stored_predictions",
    "table_version",
    "with_context",
]


def checked_bars(context: StageContext) -> CheckedBars:
    """Bars as quality left them. Needs `ingest` and `quality`."""
    return open_bars(
        context.recipe, context.storage, context.inputs["ingest"], str(context.output("quality", "report"))
    )


def open_bars(recipe: Recipe, storage: Storage, ingest: StageRecord, report: str) -> CheckedBars:
    """Bars of one version, adjusted for the corporate actions that were loaded with them where the recipe says so."""
    instruments, actions = recipe.instruments, None
    if instruments is not None and instruments.actions and instruments.adjust == "forward":
        actions = TableVersion("lake/instruments/actions", int(ingest.outputs["instruments"]["actions"]))
    return CheckedBars(
        storage=storage,
        timeframe=recipe.ingest.timeframe,
        version=int(ingest.outputs["version"]),
        report=report,
        policy=recipe.quality,
        source_priority=recipe.bars_sources,
        actions=actions,
        dividends=instruments is not None and instruments.dividends,
    )


@dataclass(frozen=True)
class _Beside:
    """Several things beside the bars, one after another."""

    contexts: tuple[BarContext, ...]

    @property
    def fingerprint(self) -> str:
        return fingerprint("beside", *(context.fingerprint for context in self.contexts))

    def join(self, bars: pl.DataFrame) -> pl.DataFrame:
        return functools.reduce(lambda joined, context: context.join(joined), self.contexts, bars)


def bar_context(bars: CheckedBars, outputs: Mapping[str, Any]) -> BarContext | None:
    """What a feature table was made beside, by the outputs of its stage: an index, an order book, both or nothing."""
    contexts: list[BarContext] = []
    if index := outputs.get("index"):
        contexts.append(IndexContext(bars.storage, TableVersion(str(index["path"]), int(index["version"]))))
    if book := outputs.get("book"):
        version = TableVersion(str(book["table"]), int(book["version"]))
        contexts.append(BookBeside(bars.storage, version, bars.timeframe, book["max_age_s"]))
    return _Beside(tuple(contexts)) if len(contexts) > 1 else next(iter(contexts), None)


def with_context(bars: CheckedBars, features: StageRecord) -> Callable[[str], pl.DataFrame]:
    """Reads a symbol's bars with the columns of whatever the feature table was made beside."""
    context = bar_context(bars, features.outputs)
    return bars.read if context is None else lambda symbol: context.join(bars.read(symbol))


def instrument_versions(context: StageContext) -> InstrumentVersions | None:
    """The instruments that `ingest` loaded; None when the recipe has none."""
    found: dict[str, int] = context.output("ingest", "instruments")
    if not found:
        return None
    return InstrumentVersions(**{name: TableVersion(f"lake/instruments/{name}", n) for name, n in found.items()})


def table_version(context: StageContext, stage: str) -> TableVersion:
    return TableVersion(str(context.output(stage, "table")), int(context.output(stage, "version")))


def labels_table(context: StageContext) -> LakeTable:
    return LakeTable(context.storage, table_version(context, "labels").path)


def split_plan(context: StageContext) -> SplitPlan:
    return SplitPlan.from_json(context.storage.read_text(str(context.output("split", "plan"))))


def chunk_store(context: StageContext) -> ChunkStore:
    return ChunkStore.open(context.storage, str(context.output("train", "chunks")))


def read_predictions(context: StageContext, model: str, segment: Segment) -> pl.DataFrame:
    """Predictions of one model over one segment, sorted by symbol and time. Needs `train`."""
    return stored_predictions(context.storage, str(context.output("train", "predictions")), model, segment)


def stored_predictions(storage: Storage, predictions: str, model: str, segment: Segment) -> pl.DataFrame:
    """The same from the folder that `train` wrote them to."""
    path = storage.path(predictions, segment, f"model={model}")
    frame = pl.from_arrow(pads.dataset(path, filesystem=storage.filesystem, format="parquet").to_table())
    assert isinstance(frame, pl.DataFrame)
    return frame.sort("symbol", "timestamp")
