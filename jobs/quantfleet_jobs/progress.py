"""What a person sees: a line per finished stage, a moving one for the stage at work, one clear text for an error."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich.console import Console
from rich.status import Status
from rich.text import Text

from quantfleet.errors import QuantfleetError

__all__ = ["Progress", "reported"]


def reported(work: Callable[[], None]) -> int:
    """Run, and turn errors we raise on purpose into one clear text and exit code 1; others keep their traceback."""
    try:
        work()
    except QuantfleetError as error:
        name = Text(type(error).__name__, style="bold red")
        Console(stderr=True, soft_wrap=True).print(Text.assemble(name, ": ", error.message), highlight=False)
        return 1
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; the same command goes on from what is finished.")
        return 130
    return 0


class Progress:
    """Prints to one console; on anything but a terminal each update becomes a line of its own.

    Called from the main thread and from the one that brings live training reports.
    """

    def __init__(
        self, console: Console, *, live_every_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args: live_every_s: where lines stay, `live` prints no more than one in so many seconds."""
        self._console = console
        self._live_every_s = live_every_s
        self._clock = clock
        self._said_at = -math.inf
        self._status: Status | None = None
        self._title = ""
        self._began = 0.0
        self._last = ""

    def start(self, stage: str, number: int, total: int) -> None:
        self._title = f"[{number:>2}/{total}] {stage:<9}"
        self._began = time.perf_counter()
        if self._console.is_terminal:
            self._status = self._console.status(Text(self._title))
            self._status.start()
        else:
            self._line(Text(f"{self._title} started"))

    def update(self, text: str) -> None:
        """Say what the running stage is at."""
        if text == self._last:
            return
        self._last = text
        self._said_at = self._clock()
        if self._status is not None:
            self._status.update(Text(f"{self._title} {text}"))
        else:
            self._line(Text(f"{self._title} {text}"))

    def live(self, text: str) -> None:
        """Say where the running stage is, as one of many such texts: most are left out where lines stay."""
        if self._status is not None or self._clock() - self._said_at >= self._live_every_s:
            self.update(text)

    def note(self, text: str) -> None:
        """Say something that stays, such as a link."""
        self._line(Text(f"{self._title} {text}"))

    def finish(self, summary: str) -> None:
        self.stop()
        seconds = time.perf_counter() - self._began
        mark = "✓" if self._console.is_terminal else "done:"
        self._line(Text.assemble((f"{self._title} {mark} ", "green"), summary, (f"  ({seconds:.1f} s)", "dim")))

    def stop(self) -> None:
        """Take the moving line away, for example before an error is shown."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _line(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)
