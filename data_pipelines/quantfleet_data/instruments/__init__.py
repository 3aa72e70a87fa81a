"""What was listed when, in which index, and what happened to it; and indices made of it."""

from quantfleet_data.instruments.adjust import adjust_backward, adjust_forward
from quantfleet_data.instruments.base import Instruments
from quantfleet_data.instruments.blocks import bar_blocks
from quantfleet_data.instruments.index_builder import (
    INDEX_COLUMNS,
    IndexConfig,
    aggregate_index,
    build_index,
    join_index,
)
from quantfleet_data.instruments.load import InstrumentFile, InstrumentsConfig, listings_from_bars, load_instruments
from quantfleet_data.instruments.store import InstrumentVersions, read_actions, read_instruments, write_instruments

__all__ = [
    "INDEX_COLUMNS",
    "IndexConfig",
    "InstrumentFile",
    "InstrumentVersions",
    "Instruments",
    "InstrumentsConfig",
    "adjust_backward",
    "adjust_forward",
    "aggregate_index",
    "bar_blocks",
    "build_index",
    "join_index",
    "listings_from_bars",
    "load_instruments",
    "read_actions",
    "read_instruments",
    "write_instruments",
]
