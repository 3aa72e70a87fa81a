"""What a bench measures beside the scores: how long one answer takes, and how much memory a fit takes.

Shapes: B chunks, C targets, T = C + L - 1 rows, F features.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil

from quantfleet.contracts import ChunkBatch, Model, TrainingData
from quantfleet.errors import DataError, EmptyTableError

__all__ = ["Latency", "PeakMemory", "answer_latency", "first_window"]

_WARM_UP = 3
_LEAST, _LONGEST_S = 5, 2.0
"""Calls that are timed at least, and how long all of them may take once there are so many."""
_FITTING = ("TrainWorker", "_fit_in_task")
"""What Ray writes into the titles of processes that fit: Train's workers, and the task of a library that fits in one process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Of one answer for one window, in this process, milliseconds."""

    p50_ms: float
    p99_ms: float
    calls: int


def first_window(data: TrainingData) -> ChunkBatch:
    """The first counted window of validation as a batch of its own (B = C = 1). Raises: EmptyTableError: there is none."""
    L = data.spec.lookback_bars
    for batch in data.read("validation"):
        chunks, targets = np.nonzero(batch.mask_BC)
        if len(chunks):
            b, c = int(chunks[0]), int(targets[0])
            return replace(
                batch,
                chunk_id_B=batch.chunk_id_B[b : b + 1],
                symbol_id_B=batch.symbol_id_B[b : b + 1],
                time_BC=batch.time_BC[b : b + 1, c : c + 1],
                x_BTF=np.ascontiguousarray(batch.x_BTF[b : b + 1, c : c + L]),
                y_BCK=batch.y_BCK[b : b + 1, c : c + 1],
                mask_BC=batch.mask_BC[b : b + 1, c : c + 1],
                weight_BC=batch.weight_BC[b : b + 1, c : c + 1],
            )
    raise EmptyTableError("the validation segment has no counted window, so there is nothing to ask a model for.")


def answer_latency(
    model: Model, window: ChunkBatch, *, calls: int, clock: Callable[[], float] = time.perf_counter
) -> Latency:
    """Time single answers after a few that warm up.

    Args:
        model: built with `chunk_bars=1`, loaded.
        calls: at most; after two seconds no further one is made, as long as there are five.
    Raises: DataError: an answer is not finite.
    """
    for _ in range(_WARM_UP):
        forecast = model.predict(window)
    for name in ("return_BCH", "direction_logit_BCH", "volatility_BCH"):
        if not np.isfinite(getattr(forecast, name)).all():
            raise DataError(f"model {model.config.label!r} answers {name} with values that are not finite.")
    taken: list[float] = []
    while len(taken) < calls and (len(taken) < _LEAST or sum(taken) < _LONGEST_S):
        began = clock()
        model.predict(window)
        taken.append(clock() - began)
    p50, p99 = np.quantile(taken, [0.5, 0.99]) * 1e3
    return Latency(p50_ms=float(p50), p99_ms=float(p99), calls=len(taken))


class PeakMemory:
    """Inside the block, watches the resident memory of the processes of a local Ray that fit; `peak_mb` is that of the largest.

    Libraries count, and pages of mapped chunks: it is what the machine must have for each worker. Of workers on other machines
    nothing is known, nor of a fit that is shorter than the interval: then it is None.

    Args:
        every_s: between two looks.
        processes: (title, resident bytes) of each process there is; the descendants of this one when not given.
    """

    def __init__(self, *, every_s: float = 0.2, processes: Callable[[], list[tuple[str, int]]] | None = None) -> None:
        self.peak_mb: float | None = None
        self._every_s, self._processes = every_s, processes or _descendants
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(self._every_s)  # and one last look
            sizes = [size for title, size in self._processes() if any(word in title for word in _FITTING)]
            if sizes:
                self.peak_mb = max(self.peak_mb or 0.0, max(sizes) / 1e6)


def _descendants() -> list[tuple[str, int]]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found.append((" ".join(process.cmdline()), int(process.memory_info().rss)))
        except psutil.Error:  # it ended meanwhile
            continue
    return found
