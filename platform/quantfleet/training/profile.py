"""Profiler traces on demand: a few steps of rank 0, as a Chrome trace and as a table of the operators that took longest."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from quantfleet.errors import StorageError
from quantfleet.logs import get_logger
from quantfleet.storage import Storage

__all__ = ["StepProfiler"]

log = get_logger(__name__)

_OPERATORS_SHOWN = 30


class StepProfiler:
    """Records `torch.profiler` over steps [first, first + count) of one worker. Steps outside cost one comparison.

    Writes `rankR.json.gz` (open it in Perfetto or chrome://tracing) and `rankR.txt`, operators by their own time, into a folder
    under the storage root, once. A fit that goes on inside the window records what is left of it; one beyond it, nothing.

    Args:
        steps: first step and how many, as `training.profile_steps`; None: never records.
        folder: under the storage root, as `FitContext.profile_folder`; None: never records.
    """

    def __init__(self, steps: tuple[int, int] | None, *, storage: Storage, folder: str | None, rank: int) -> None:
        self._first, self._end = (0, 0) if steps is None or folder is None else (steps[0], sum(steps))
        self._storage = storage
        self._folder = folder
        self._rank = rank
        self._running: profile | None = None

    def before_step(self, step: int) -> None:
        """Call before the minibatch of step `step` (0 is the fit's first) is asked for."""
        if self._running is None and self._first <= step < self._end:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._running = profile(activities=activities, record_shapes=True)
            self._running.start()

    def after_step(self, step: int) -> None:
        """Call when step `step` is done."""
        if self._running is not None and step + 1 >= self._end:
            self.close()

    def close(self) -> None:
        """Stop, and write what was recorded; call it also when the loop ends, which may be inside the window."""
        if self._running is None:
            return
        recorded, self._running, self._end = self._running, None, 0
        recorded.stop()
        assert self._folder is not None
        try:
            self._write(recorded, self._folder)
        except (StorageError, OSError) as error:  # a trace is no reason to lose a fit
            log.warning("the profiler trace could not be written", folder=self._folder, error=str(error))

    def _write(self, recorded: profile, folder: str) -> None:
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = recorded.key_averages().table(sort_by=by, row_limit=_OPERATORS_SHOWN, max_name_column_width=60)
        with tempfile.TemporaryDirectory() as local:
            trace = Path(local, f"rank{self._rank}.json.gz")
            recorded.export_chrome_trace(str(trace))
            self._storage.write_bytes(f"{folder}/{trace.name}", trace.read_bytes())
        self._storage.write_text(f"{folder}/rank{self._rank}.txt", table)
        log.info("profiler trace written", where=self._storage.uri(folder, f"rank{self._rank}.json.gz"))
