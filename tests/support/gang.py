"""Gangs of these tests: what their workers run is imported once."""

from __future__ import annotations

import functools

from quantfleet.testing import gang
from quantfleet.testing.gang import WorkerFailedError

__all__ = ["PRELOADED", "WorkerFailedError", "run_gang"]

PRELOADED = (*gang.PRELOADED, "support.fits", "support.local_tasks")
run_gang = functools.partial(gang.run_gang, preload=PRELOADED)
