"""The journal of a paper session: a line of JSON a row, in files of 256 rows; only the last file is ever written again.

A file is written whole or not at all, and before the state that counts its rows. Lines beyond that count are of a row whose
state was never written: they are left out, and written again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from quantfleet.errors import ChecksumError
from quantfleet.storage import Storage

__all__ = ["Journal", "to_json"]

_FILE_ROWS = 256


def to_json(value: Any) -> str:
    """One line of strict JSON, floats to the last bit, NumPy's numbers as plain ones."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


class Journal:
    """Rows of one session. Not thread-safe."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage = storage
        self.folder = folder
        self.rows = 0
        self.digest = ""
        """SHA-256 of the digest before the last line and that line: of the whole journal, then."""
        self._last: list[str] = []
        """Lines of the file that is not full yet."""

    def place(self, row: int) -> str:
        """The file that holds a row."""
        return f"{self.folder}/{row // _FILE_ROWS:06d}.jsonl"

    def append(self, line: dict[str, Any]) -> None:
        """Write a row. Raises: StorageError: then the row is not in the journal."""
        text = to_json(line)
        lines = [*(self._last if self.rows % _FILE_ROWS else ()), text]
        self.storage.write_text(self.place(self.rows), "\n".join(lines) + "\n")
        self._take(text)
        self._last = lines

    def read(self, rows: int, digest: str) -> list[dict[str, Any]]:
        """The first rows, after which the next is appended.

        Raises: ChecksumError: they are not those that were written. MissingInputError: a file is not there.
        """
        self.rows, self.digest, self._last = 0, "", []
        texts: list[str] = []
        for first in range(0, rows, _FILE_ROWS):
            self._last = self.storage.read_text(self.place(first)).splitlines()[: min(rows - first, _FILE_ROWS)]
            texts += self._last
        for text in texts:
            self._take(text)
        if (self.rows, self.digest) != (rows, digest):
            raise ChecksumError(
                f"the journal {self.storage.uri(self.folder)} does not hold the {rows} rows that its state counts: files were "
                "changed, or belong to another session. Put them back, or begin a session under another name."
            )
        return [json.loads(text) for text in texts]

    def _take(self, text: str) -> None:
        self.digest = hashlib.sha256(f"{self.digest}{text}".encode()).hexdigest()
        self.rows += 1
