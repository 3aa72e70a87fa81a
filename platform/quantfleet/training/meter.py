"""What a worker measures of its own loop: rows per second, time of a step, the share of it spent waiting for data."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

__all__ = ["StepExporter", "StepMeter", "resident_mb"]


class StepExporter(Protocol):
    """Where measurements go beside the snapshots: Prometheus in production."""

    def step(self, seconds: float) -> None:
        """One step took this long."""
        ...

    def interval(self, *, rows: int, input_stall: float) -> None:
        """Since the last interval this worker trained on `rows` windows and waited for this share (0 to 1) of its steps."""
        ...


class StepMeter:
    """Times the steps of one worker. Not thread-safe; a step costs two microseconds and what the exporter takes.

    A step lasts from `wait_began` (the loop asks for the next minibatch) to `step_ended`, so validation, checkpoints and
    reports between two steps count for neither.

    Args:
        workers: how many workers share a global step; every one makes equally many.
        first_step: steps that earlier attempts of the fit have done.
        exporter: gets every step and every interval as well.
        clock: seconds; monotonic.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        first_step: int = 0,
        exporter: StepExporter | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._workers = workers
        self._exporter = exporter
        self._clock = clock
        self.step = first_step
        """Steps done so far, those of earlier attempts included."""
        self._snapshot_at = self._step_began = self._wait_began = clock()
        self._steps = self._windows = 0
        self._busy_s = self._stalled_s = 0.0
        self._last = {"rows_per_s": 0.0, "step_ms": 0.0, "input_stall": 0.0}

    def wait_began(self) -> None:
        """The loop asks for the next minibatch: a step begins."""
        self._step_began = self._wait_began = self._clock()

    def wait_ended(self) -> None:
        """The minibatch is there."""
        self._stalled_s += self._clock() - self._wait_began

    def step_ended(self, windows: int) -> None:
        """The step is done. Args: windows: counted windows of this worker's minibatch."""
        now = self._clock()
        seconds = now - self._step_began
        self._step_began = now  # a loop that never says when it waits is timed from step to step
        self.step += 1
        self._steps += 1
        self._windows += windows
        self._busy_s += seconds
        if self._exporter is not None:
            self._exporter.step(seconds)

    def due(self, every_s: float) -> bool:
        """Whether the last snapshot is at least so many seconds old."""
        return self._clock() - self._snapshot_at >= every_s

    def snapshot(self) -> dict[str, float]:
        """Close an interval.

        Returns: `step`, steps done so far; `rows_per_s`, windows a second of all workers together while they were in
            steps; `step_ms`, mean milliseconds of a step; `input_stall`, share of the steps' time that this worker waited
            for data, 0 to 1; `seconds` since the last snapshot, by the clock; `rss_mb`, memory of this process. Without a
            step since the last snapshot, rates and times are those of the interval before.
        """
        now = self._clock()
        if self._steps and self._busy_s > 0:
            stall = min(1.0, self._stalled_s / self._busy_s)
            self._last = {
                "rows_per_s": self._windows * self._workers / self._busy_s,
                "step_ms": 1000.0 * self._busy_s / self._steps,
                "input_stall": stall,
            }
            if self._exporter is not None:
                self._exporter.interval(rows=self._windows, input_stall=stall)
        seconds = now - self._snapshot_at
        self._snapshot_at = now
        self._steps = self._windows = 0
        self._busy_s = self._stalled_s = 0.0
        return {"step": self.step, **self._last, "seconds": seconds, "rss_mb": resident_mb()}


def resident_mb() -> float:
    """Memory of this process that lies in RAM, megabytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
