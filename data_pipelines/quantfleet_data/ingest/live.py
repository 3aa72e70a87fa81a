"""Which bars of a live stream are closed, and which must be asked for again. Decisions only: no socket, no clock.

An exchange streams the running bar over and over. A bar is closed once a later one was seen; what a broken connection, a
lost message or a late one may have spoilt is never guessed, it is repaired over REST.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quantfleet.errors import SourceError

__all__ = ["Closed", "LiveBars", "LiveRow", "Repair"]

LiveRow = tuple[int, float, float, float, float, float]
"""Open time in ms since 1970 (UTC), open, high, low, close, volume."""

_DAY_MS = 86_400_000
_CLOCKS_DIFFER_MS = 300_000
_REMEMBERED = 8
"""Closed bars of a symbol that a late message is compared with."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A bar that is over; its values are final."""

    row: LiveRow


@dataclass(frozen=True, slots=True)
class Repair:
    """Ask for the bars that open in [start, end); the stream cannot be trusted to have shown them whole."""

    start_ms: int
    end_ms: int
    shown: int = 0
    """How many of these bars the stream has shown, so that they do exist."""


class LiveBars:
    """The bars of one symbol as they come in. Not thread-safe."""

    def __init__(self, *, step_ms: int, next_ms: int | None, whole: bool) -> None:
        """Args:
        step_ms: length of a bar.
        next_ms: open time of the first bar that is wanted; None: begin with the first one shown.
        whole: whether each message carries all of its bar so far. If not (bars made of trades), the bar during which
            the stream began or broke is repaired.
        """
        self.step_ms = step_ms
        self.next_ms = next_ms
        self.whole = whole
        self._running: dict[int, LiveRow] = {}
        self._doubted: set[int] = set()
        self._closed: dict[int, LiveRow] = {}
        self._fresh = True

    def lost(self) -> None:
        """The connection broke: the last messages of the bars that were running may be missing."""
        self._doubted.update(self._running)
        self._fresh = True

    def update(self, rows: Iterable[Sequence[float]], *, now_ms: int) -> list[Closed | Repair]:
        """Take bars as the stream shows them, in any order; returns what is settled by that, ascending in time.

        Raises: SourceError: no bars of this length, or bars of the future.
        """
        late: list[Closed | Repair] = []
        for row in sorted((_typed(row) for row in rows), key=lambda row: row[0]):
            if _DAY_MS % self.step_ms == 0 and row[0] % self.step_ms:
                raise SourceError(
                    f"the stream lies about its timeframe: a bar opens at {row[0]} ms, off the grid of {self.step_ms} ms."
                )
            if row[0] > now_ms + _CLOCKS_DIFFER_MS:
                raise SourceError(
                    f"the stream shows a bar of the future: it opens at {row[0]} ms, and it is {now_ms} ms. Check this "
                    "machine's clock."
                )
            self._take(row, late)
        return [*late, *self._settle()]

    def _take(self, row: LiveRow, late: list[Closed | Repair]) -> None:
        open_ms = row[0]
        if self.next_ms is None:
            self.next_ms = open_ms
        if open_ms < self.next_ms:
            if open_ms in self._closed and self._closed[open_ms] != row:  # the exchange corrects what was closed
                late.append(Repair(open_ms, open_ms + self.step_ms, shown=1))
                del self._closed[open_ms]
            return
        self._running[open_ms] = row
        if self.whole:
            self._doubted.discard(open_ms)
        elif self._fresh:
            self._doubted.add(open_ms)
        self._fresh = False

    def _settle(self) -> list[Closed | Repair]:
        settled: list[Closed | Repair] = []
        newest_ms = max(self._running, default=0)
        for open_ms in sorted(self._running):
            if open_ms == newest_ms:
                break
            self._pass(open_ms, settled)
            row = self._running.pop(open_ms)
            if open_ms in self._doubted:
                self._doubted.discard(open_ms)
                settled.append(Repair(open_ms, open_ms + self.step_ms, shown=1))
            else:
                settled.append(Closed(row))
                self._closed[open_ms] = row
            self.next_ms = open_ms + self.step_ms
        if self._running:
            self._pass(newest_ms, settled)
        for forgotten in sorted(self._closed)[:-_REMEMBERED]:
            del self._closed[forgotten]
        return _joined(settled)

    def _pass(self, open_ms: int, settled: list[Closed | Repair]) -> None:
        if self.next_ms is not None and self.next_ms < open_ms:
            settled.append(Repair(self.next_ms, open_ms))
            self.next_ms = open_ms

    def overdue(self, now_ms: int) -> list[Closed | Repair]:
        """The bars that are over by the clock, though no later one was shown: a quiet market, or a dead stream."""
        end_ms = now_ms // self.step_ms * self.step_ms
        if self.next_ms is None or self.next_ms >= end_ms:
            return []
        shown = [open_ms for open_ms in self._running if open_ms < end_ms]
        repair = Repair(self.next_ms, end_ms, shown=len(shown))
        for open_ms in shown:
            del self._running[open_ms]
            self._doubted.discard(open_ms)
        self.next_ms = end_ms
        return [repair]


def _typed(row: Sequence[float]) -> LiveRow:
    if len(row) < 6 or any(value is None for value in row[:6]):
        raise SourceError(f"the stream shows no bar but {str(row)[:120]}.")
    return int(row[0]), float(row[1]), float(row[2]), float(row[3]), float(row[4]), float(row[5])


def _joined(settled: list[Closed | Repair]) -> list[Closed | Repair]:
    """Repairs that follow each other, as one."""
    joined: list[Closed | Repair] = []
    for item in settled:
        last = joined[-1] if joined else None
        if isinstance(item, Repair) and isinstance(last, Repair) and last.end_ms == item.start_ms:
            joined[-1] = Repair(last.start_ms, item.end_ms, last.shown + item.shown)
        else:
            joined.append(item)
    return joined
