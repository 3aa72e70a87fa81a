"""Chunks: fixed-size pieces of one symbol's history with a look-back halo; the unit of sharding and shuffling."""

from quantfleet_data.chunks.build import ChunkCutter, chunk_segment, symbol_rows
from quantfleet_data.chunks.store import ChunkStore
from quantfleet_data.chunks.write import ChunkInputs, chunk_store_path, write_chunks

__all__ = [
    "ChunkCutter",
    "ChunkInputs",
    "ChunkStore",
    "chunk_segment",
    "chunk_store_path",
    "symbol_rows",
    "write_chunks",
]
