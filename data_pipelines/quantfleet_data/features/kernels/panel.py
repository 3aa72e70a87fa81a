"""Panels: the features of many symbols in one float32 matrix, LANES symbols at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from quantfleet_data.features.kernels.codes import LANES, TILE_BARS
from quantfleet_data.features.kernels.memory import aligned_bytes
from quantfleet_data.features.windows import Array

if TYPE_CHECKING:
    from quantfleet_data.features.kernels.lane_code import LaneCode  # loads the compiler

__all__ = ["Panel", "PanelRunner"]

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Panel:
    """Features of several symbols, the bars of each in a stretch of columns of its own.

    A stretch begins at a multiple of TILE_BARS columns, so that results are written in whole cache lines; the columns
    between a symbol's last bar and the next stretch hold NaN.
    """

    values_FT: Floats
    """Shape (features, columns), C-contiguous, on a cache line. The rows of one feature lie together."""
    starts: tuple[int, ...]
    """Column of each symbol's first bar."""
    bars: tuple[int, ...]
    """Bars of each symbol."""

    @classmethod
    def empty(cls, features: int, bars: Sequence[int]) -> Panel:
        """Room for symbols of so many bars. Memory that was used before is about twice as fast as fresh memory."""
        *starts, columns = itertools.accumulate((_whole_tiles(n) for n in bars), initial=0)
        values = aligned_bytes(4 * features * columns).view(np.float32).reshape(features, columns)
        return cls(values, tuple(starts), tuple(bars))

    def of(self, symbol: int) -> Floats:
        """Shape (T, F): the bars of symbol number `symbol`, a view."""
        start = self.starts[symbol]
        return self.values_FT[:, start : start + self.bars[symbol]].T

    def put(self, symbol: int, feature: int, values_T: Array) -> None:
        """Write one feature of a symbol."""
        start, bars = self.starts[symbol], self.bars[symbol]
        stretch = self.values_FT[feature, start : start + _whole_tiles(bars)]
        stretch[:bars] = values_T
        stretch[bars:] = np.nan


class PanelRunner:
    """Runs panel code. Not thread-safe; make one per thread."""

    def __init__(self, code: LaneCode) -> None:
        self.code = code
        sizes = (code.state_bytes, code.input_bytes, code.output_bytes, 4 * TILE_BARS)
        self._state, self._input_tile, self._output_tile, self._nowhere = (aligned_bytes(size) for size in sizes)

    def run(self, columns: Sequence[Mapping[str, Array]], panel: Panel, symbols: Sequence[int]) -> None:
        """Compute the whole histories of up to LANES symbols, fastest when they are LANES and equally long.

        Args:
            columns: for each symbol contiguous float64 of shape (T,) for each of `code.inputs`.
            symbols: which of the panel's symbols they are.
        Raises: ValueError: the columns do not fit the panel.
        """
        lanes = [[one[name] for name in self.code.inputs] for one in columns]
        _check_columns(lanes, [panel.bars[symbol] for symbol in symbols])
        _check_panel(panel, symbols, self.code.features)
        inputs, (bars, outs, strides) = _table(len(self.code.inputs)), _table(3)
        first, stride = panel.values_FT.ctypes.data, panel.values_FT.shape[1]
        for lane, (one, symbol) in enumerate(zip(lanes, symbols, strict=True)):
            inputs[:, lane] = [x.ctypes.data for x in one]
            bars[lane], outs[lane], strides[lane] = panel.bars[symbol], first + 4 * panel.starts[symbol], stride
        inputs[:, len(lanes) :] = inputs[:, :1]
        outs[len(lanes) :] = self._nowhere.ctypes.data
        self._state[:] = 0
        memory = (self._state, inputs, bars, outs, strides, self._nowhere, self._input_tile, self._output_tile)
        self.code.run(*(one.ctypes.data for one in memory))


def _table(rows: int) -> npt.NDArray[np.uint64]:
    return np.zeros((rows, LANES), dtype=np.uint64)


def _check_columns(lanes: Sequence[Sequence[Array]], bars: Sequence[int]) -> None:
    if not 1 <= len(lanes) <= LANES:
        raise ValueError(f"{len(lanes)} symbols were passed; 1 to {LANES} run at once.")
    for columns, n in zip(lanes, bars, strict=True):
        for x in columns:
            if x.shape != (n,) or x.dtype != np.float64 or not x.flags.c_contiguous:
                raise ValueError(
                    f"a column is {x.dtype} of shape {x.shape}; contiguous float64 of shape ({n},) fits the panel."
                )


def _check_panel(panel: Panel, symbols: Sequence[int], features: int) -> None:
    """What is written past the caches must be whole cache lines of the panel, or the process dies."""
    values = panel.values_FT
    rows, columns = values.shape
    if rows < features:
        raise ValueError(f"the panel has {rows} rows; the code writes up to row {features - 1}.")
    starts = [panel.starts[symbol] for symbol in symbols]
    ends = [start + _whole_tiles(panel.bars[symbol]) for start, symbol in zip(starts, symbols, strict=True)]
    plain = values.dtype == np.float32 and values.flags.c_contiguous and values.flags.writeable
    lined_up = values.ctypes.data % 64 == 0 and not any(n % TILE_BARS for n in (columns, *starts))
    if not plain or not lined_up or min(starts) < 0 or max(ends) > columns:
        raise ValueError(
            f"a panel of {values.dtype} {values.shape} with symbols at {starts} has bars that begin on no cache line, or "
            "cannot be written; make panels with Panel.empty, also after one was pickled."
        )


def _whole_tiles(bars: int) -> int:
    return -(-bars // TILE_BARS) * TILE_BARS
