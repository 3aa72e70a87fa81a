"""Gangs of these tests: what their workers run is imported once."""

from __future__ import annotations

import functools

from quantfleet.testing import gang
from quantfleet.testing.gang import WorkerFailedError

__all__ = ["PRELOADED", "WorkerFailedError", "run_gang"]

PRELOADED = (*gang.PRELOADED, "quantfleet.training.strategies.deepspeed_engine", "support.fits", "support.local_tasks")
"""DeepSpeed takes 10 s of a core to import; where it is not installed the fork server goes without."""
run_gang = functools.partial(gang.run_gang, preload=PRELOADED)
