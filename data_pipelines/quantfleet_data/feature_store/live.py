"""The newest features of every symbol: the state the next run goes on from, and what a service reads online."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import quantfleet
from quantfleet.errors import DataError, MissingInputError, nearest
from quantfleet.storage import Storage, TableVersion
from quantfleet_data.feature_store.state import SymbolState, states_from_bytes

__all__ = ["LiveFeatures", "OnlineFeatures"]

_CURRENT = "current.json"


@dataclass(frozen=True)
class LiveFeatures:
    """Files beside a feature table, `lake/live/...`: one state file a finished content, and the name of the current one."""

    storage: Storage
    table: str
    """Path of the feature table."""

    @property
    def folder(self) -> str:
        return self.table.replace("lake/features/", "lake/live/", 1)

    def states(self, content: str) -> Mapping[str, SymbolState]:
        """States of a content; none when this version of Quantfleet did not write them: then everything is computed anew."""
        if not self.storage.exists(self.folder, self.file(content)):
            return {}
        return self.read(self.file(content))

    def file(self, content: str) -> str:
        """Another version may compute in other steps, so it does not go on from these states."""
        return f"{content}-{quantfleet.__version__}.arrow"

    def read(self, file: str) -> Mapping[str, SymbolState]:
        return states_from_bytes(self.storage.read_bytes(self.folder, file))

    def write(self, content: str, states: bytes) -> None:
        self.storage.write_bytes(f"{self.folder}/{self.file(content)}", states)

    def publish(self, content: str, version: TableVersion, columns: Sequence[str]) -> None:
        """Let readers see a content whose table is finished; the one before stays for those who have it open."""
        before = self._current()
        record = {"file": self.file(content), "version": version.version, "columns": list(columns)}
        self.storage.write_text(f"{self.folder}/{_CURRENT}", json.dumps(record))
        kept = {record["file"], before["file"] if before else record["file"]}
        for name in self.storage.list(self.folder):
            if name.endswith(".arrow") and name not in kept:
                self.storage.delete(self.folder, name)

    def _current(self) -> dict[str, str] | None:
        if not self.storage.exists(self.folder, _CURRENT):
            return None
        found: dict[str, str] = json.loads(self.storage.read_text(self.folder, _CURRENT))
        return found


class OnlineFeatures:
    """The newest feature row of every symbol, in memory: a look-up costs microseconds.

    Thread safety: look-ups may run beside a `refresh`; each sees one version whole.
    """

    def __init__(self, storage: Storage, table: str) -> None:
        """Raises: MissingInputError: the table was never finished."""
        self._live = LiveFeatures(storage, table)
        self._open()

    def _open(self) -> None:
        current = self._live._current()
        if current is None:
            raise MissingInputError(
                f"there are no live features of {self._live.table} under {self._live.storage.uri()}; run "
                "`quantfleet features compute RECIPE` first."
            )
        states = self._live.read(current["file"])
        self._view = _View(
            version=int(current["version"]),
            file=current["file"],
            columns=tuple(current["columns"]),
            rows={symbol: (state.timestamp, _frozen(state.latest)) for symbol, state in states.items()},
        )

    @property
    def version(self) -> int:
        """Version of the feature table that the rows are of."""
        return self._view.version

    @property
    def columns(self) -> tuple[str, ...]:
        return self._view.columns

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self._view.rows)

    def latest(self, symbol: str) -> tuple[dt.datetime, npt.NDArray[np.float64]]:
        """Open time (UTC) of a symbol's newest bar and its features, shape (F,) in the order of `columns`, read-only.

        Raises: DataError: no such symbol.
        """
        try:
            return self._view.rows[symbol]
        except KeyError:
            raise DataError(
                f"{self._live.table} version {self.version} has no symbol {symbol!r}.{nearest(symbol, self.symbols)}",
                symbol=symbol,
            ) from None

    def refresh(self) -> bool:
        """Read the newest finished version; return whether it is another than before."""
        current = self._live._current()
        if current is None or current["file"] == self._view.file:
            return False
        self._open()
        return True


@dataclass(frozen=True)
class _View:
    version: int
    file: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[dt.datetime, npt.NDArray[np.float64]]]


def _frozen(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values.setflags(write=False)
    return values
