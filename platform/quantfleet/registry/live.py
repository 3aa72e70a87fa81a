"""A fit's MLflow run while the fit runs: points in batches, from a thread, and an outage of the server costs no training.

Killed and resumed, the same fit goes on in the same run. Of each metric only steps after its last logged one are written, so
what is trained again after a restart is not logged again.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol

from quantfleet.errors import RegistryError
from quantfleet.logs import get_logger
from quantfleet.registry.store import FitRun, Point

__all__ = ["FitStore", "LiveRun"]

log = get_logger(__name__)

_WRITE_EVERY_S = 2.0
_SAMPLE_EVERY_S = 10.0
_LONGEST_PAUSE_S = 30.0
_PATIENCE_S = 20.0
_MOST_WAITING = 200_000


class FitStore(Protocol):
    """The part of ModelRegistry that a live run needs; each call may raise RegistryError."""

    def open_fit(self, fit: FitRun) -> str: ...

    def last_steps(self, run_id: str) -> dict[str, int]: ...

    def log_points(self, run_id: str, points: Sequence[Point]) -> None: ...

    def log_curve(self, run_id: str, rows: Sequence[Mapping[str, float]]) -> None: ...

    def close_fit(self, run_id: str, status: str, files: Mapping[str, bytes]) -> None: ...


class LiveRun:
    """Context manager around one fit. Everything that asks the server happens in its thread; `log` costs microseconds.

    While the server is away, points wait (200,000 of them, then the oldest go) and one warning is logged; they are written when
    it is back. Leaving the block waits up to `patience_s` for that, then says what is missing: the rows of `finish` are also
    in the training record, from which the register stage completes the run.

    Args:
        fit: opened in the thread, so that a fit starts without waiting for the server.
        sample: extra values every `sample_every_s`, as SystemSampler gives them; made in the thread.
    """

    def __init__(
        self,
        store: FitStore,
        fit: FitRun,
        *,
        sampler: Callable[[], Callable[[], Mapping[str, float]]] | None = None,
        write_every_s: float = _WRITE_EVERY_S,
        sample_every_s: float = _SAMPLE_EVERY_S,
        patience_s: float = _PATIENCE_S,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        self._store, self._fit, self._sampler = store, fit, sampler
        self._write_every_s, self._sample_every_s, self._patience_s = write_every_s, sample_every_s, patience_s
        self._waiting: deque[Point] = deque(maxlen=most_waiting)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ended: str | None = None
        self._curve: Sequence[Mapping[str, float]] = ()
        self._files: Mapping[str, bytes] = {}
        self._run_id: str | None = None
        self._last: dict[str, int] | None = None
        self._step = 0
        self._lost = 0
        self._away = False
        self._thread = threading.Thread(target=self._work, name="mlflow-live", daemon=True)

    def __enter__(self) -> LiveRun:
        self._thread.start()
        return self

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Add values of one step; NaN and infinity are left out. Never waits, never raises."""
        now = int(time.time() * 1000)
        points = [Point(key, float(value), now, step) for key, value in values.items() if math.isfinite(value)]
        with self._lock:
            self._step = step
            self._add(points)

    def finish(self, curve: Sequence[Mapping[str, float]], files: Mapping[str, bytes]) -> None:
        """The fit is done. Args: curve: its whole learning curve. files: artifacts by their paths in the run."""
        self._curve, self._files = curve, files

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._wake.set()
        # an interrupted user does not wait; a server that neither answers nor refuses is given up with its thread
        self._thread.join(timeout=2.0 if self._ended == "KILLED" else 3 * self._patience_s)
        if self._thread.is_alive():
            log.warning("the MLflow server does not answer; this fit's run is not closed", fit=self._fit.fit)

    def _add(self, points: Sequence[Point]) -> None:
        """Append; the oldest fall out of a full queue, and are counted."""
        self._lost += max(0, len(self._waiting) + len(points) - (self._waiting.maxlen or 0))
        self._waiting.extend(points)

    # --- in the thread ---

    def _work(self) -> None:
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001  # a bug in the watching must not take the fit with it
            log.error("MLflow gets no more of this fit", fit=self._fit.fit, error=f"{type(error).__name__}: {error}")

    def _serve(self) -> None:
        sample = None if self._sampler is None else self._sampler()
        sample_at, pause_s = time.monotonic() + self._sample_every_s, self._write_every_s
        while self._ended is None:
            self._wake.wait(pause_s)
            if sample is not None and time.monotonic() >= sample_at:
                sample_at = time.monotonic() + self._sample_every_s
                self.log(sample(), step=self._step)
            pause_s = self._write_every_s if self._tried(self._write) else min(2 * pause_s, _LONGEST_PAUSE_S)
        if sample is not None:
            self.log(sample(), step=self._step)
        self._close(self._ended)

    def _close(self, status: str) -> None:
        def everything() -> None:
            self._write()
            assert self._run_id is not None
            self._store.log_curve(self._run_id, self._curve)
            self._store.close_fit(self._run_id, status, self._files)

        give_up_at = time.monotonic() + self._patience_s
        while not self._tried(everything):
            if time.monotonic() >= give_up_at:
                log.warning(
                    "the MLflow server is still away: this fit's run is incomplete; the register stage completes it",
                    fit=self._fit.fit,
                    unwritten=len(self._waiting),
                )
                return
            time.sleep(min(1.0, self._patience_s / 4))
        if self._lost:
            log.warning("an outage of MLflow was longer than what could wait", fit=self._fit.fit, lost=self._lost)

    def _tried(self, act: Callable[[], None]) -> bool:
        """Do it; an outage is said once, and once when it is over."""
        try:
            act()
        except RegistryError as error:
            if not self._away:
                log.warning("MLflow is away; training goes on and its metrics wait", error=error.message)
            self._away, self._last = True, None  # what was written in the end must be asked for again
            return False
        if self._away:
            log.info("MLflow is back", fit=self._fit.fit)
            self._away = False
        return True

    def _write(self) -> None:
        """Write what waits. Raises: RegistryError: it waits on."""
        if self._run_id is None:
            self._run_id = self._store.open_fit(self._fit)
        if self._last is None:
            self._last = self._store.last_steps(self._run_id)
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
        last, new = dict(self._last), []
        for point in taken:
            if point.step > last.get(point.key, -1):
                last[point.key] = point.step
                new.append(point)
        with contextlib.ExitStack() as undo:
            undo.callback(self._put_back, taken)
            if new:
                self._store.log_points(self._run_id, new)
            undo.pop_all()
        self._last = last

    def _put_back(self, points: Sequence[Point]) -> None:
        with self._lock:
            newer = list(self._waiting)
            self._waiting.clear()
            self._add([*points, *newer])
