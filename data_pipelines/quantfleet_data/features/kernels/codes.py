"""Sizes that the compiled kernels and their callers agree on; apart from both, so that the compiler is not loaded."""

from __future__ import annotations

__all__ = ["LANES", "LARGE_BYTES", "TILE_BARS"]

LANES = 8
"""Doubles computed side by side: bars of one symbol, or symbols of a panel. A 512-bit register holds them; a processor with
shorter ones uses two or four. A power of two."""
TILE_BARS = 16
"""Bars that panel code computes before it writes them: a cache line of float32, a power of two."""
LARGE_BYTES = 16 << 20
"""A result larger than this is written past the caches, which it would not fit in; measured: at 9 MB that costs a third more
time, at 22 MB a tenth less."""
