"""Sources into a raw table: idempotent, resumable, and safe to run twice at once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

import polars as pl

from quantfleet.contracts import Asked, FetchRequest, Source, SourceConfig, Timeframe
from quantfleet.errors import ConfigError, EmptyTableError
from quantfleet.logs import get_logger
from quantfleet.storage import LakeTable, Storage
from quantfleet_data.ingest.config import IngestConfig
from quantfleet_data.ingest.known import Known, SpanNotes
from quantfleet_data.ingest.parts import fetch_parts
from quantfleet_data.ingest.report import IngestProgress, IngestReport
from quantfleet_data.ingest.writer import RowsWriter, existing_version

__all__ = ["ingest"]

_log = get_logger(__name__)


def ingest(
    config: IngestConfig,
    storage: Storage,
    *,
    now_utc: dt.datetime | None = None,
    progress: Callable[[IngestProgress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> IngestReport:
    """Bring a table up to date with its sources, one after another; the parts of a source at the same time.

    Each row is in the table once per source. What is there already is not written again, and when nothing is news there
    is no new version. A correction replaces the row in a new version; older versions keep the row of before. When a
    source fails, the good batches it delivered are committed first; run it again to go on from there.

    Args:
        now_utc: bars not closed by then are left out, and it is recorded as `ingested_at`; the clock when None.
        progress: called after every batch.
        stop: asked after every batch; once it says yes, what was delivered is committed and the ingest ends.
    Raises:
        ConfigError: a source cannot be built, or has no such timeframe or symbol.
        DataError: a batch breaks the table's contract; names the source. Nothing of that batch is written.
        SourceError: a source did not deliver.
        OutputExistsError: the table's place holds something else.
        StorageError: the table cannot be read or written.
    """
    now = dt.datetime.now(dt.UTC) if now_utc is None else now_utc
    if now.tzinfo is None:
        raise ConfigError(f"now_utc={now} is naive; give it with a time zone.")
    now, kind = now.astimezone(dt.UTC), config.table
    table = LakeTable(storage.absolute(), config.path)
    before = existing_version(table, kind)
    writers, built = [], [source.build() for source in config.sources]  # what cannot be built is told before any work
    for source, whole in zip(config.sources, built, strict=True):
        writer = RowsWriter(table, kind, source=source.source_name, now_utc=now, commit_rows=config.commit_rows)
        writers.append(writer)
        if _drain(whole, source.split(), writer, Timeframe(config.timeframe), progress, stop):
            break
    report = IngestReport(
        timeframe=config.timeframe,
        before=before,
        after=table.latest(),
        commits=sum(writer.commits for writer in writers),
        counts={writer.source: writer.counts for writer in writers},
        noun=kind.noun,
    )
    _log.info("ingest.done", table=str(report.after), outcome=report.summary)
    return report


def _drain(
    whole: Source,
    parts: Sequence[SourceConfig],
    writer: RowsWriter,
    timeframe: Timeframe,
    progress: Callable[[IngestProgress], None] | None,
    stop: Callable[[], bool],
) -> bool:
    """Write all that a source delivers. Returns: whether it was stopped before the end."""
    notes, step = SpanNotes(writer.table, writer.source), writer.kind.step(timeframe)

    def known() -> Known:
        return Known(writer.table, writer.source, step=step, vacant=notes.vacant, unfinished=notes.unfinished)

    def ask() -> FetchRequest:
        now_known = known()
        return FetchRequest(timeframe, now_known.last, writer.now_utc, now_known.first, now_known.holes)

    found = known()
    request = FetchRequest(timeframe, found.last, writer.now_utc, found.first, found.holes)
    received, asked, stopped = 0, list[Asked](), False
    items = fetch_parts(whole, parts, ask, writer.flush)
    try:
        for item in items:
            if isinstance(item, Asked):
                asked.append(item)
                continue
            rows = writer.kind.checked(item, request, writer.source)
            if step is None:
                _note_older(rows, found, notes)
            writer.add(rows)
            received += rows.height
            if progress is not None:
                progress(
                    IngestProgress(
                        source=writer.source,
                        symbol=rows["symbol"][-1],
                        reached_utc=rows["timestamp"][-1],
                        received=received,
                        committed=writer.committed,
                    )
                )
            if stopped := stop():
                break
    except Exception:
        writer.flush()  # the batches before the failure are good, and a re-run need not fetch them again
        raise
    finally:
        items.close()
    writer.flush()
    notes.finish(known(), asked, writer.now_utc)
    if not received and not writer.holds_any():
        raise EmptyTableError(
            f"source {writer.source!r} delivered no {writer.kind.noun}, and the table has none of it. Check its symbols "
            "and times."
        )
    return stopped


def _note_older(rows: pl.DataFrame, found: Known, notes: SpanNotes) -> None:
    """Note a span that begins to fill before the oldest row that the table had, before its first row is committed."""
    for symbol, start in rows.group_by("symbol", maintain_order=True).agg(pl.col("timestamp").min()).iter_rows():
        first = found.first(symbol)
        if first is not None and start < first:
            notes.begin(symbol, (start, first))
