"""Sources into the versioned raw tables, and rows out of them."""

from quantfleet_data.ingest.config import IngestConfig
from quantfleet_data.ingest.reading import event_stretches, list_symbols, read_bars, read_events
from quantfleet_data.ingest.report import IngestProgress, IngestReport, RowCounts
from quantfleet_data.ingest.run import ingest
from quantfleet_data.ingest.streaming import StreamConfig, stream, stream_bars
from quantfleet_data.ingest.tables import TABLES, RawTable, bars_path

__all__ = [
    "TABLES",
    "IngestConfig",
    "IngestProgress",
    "IngestReport",
    "RawTable",
    "RowCounts",
    "StreamConfig",
    "bars_path",
    "event_stretches",
    "ingest",
    "list_symbols",
    "read_bars",
    "read_events",
    "stream",
    "stream_bars",
]
