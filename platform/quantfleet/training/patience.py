"""Try storage again while it does not answer, for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from quantfleet.errors import StorageError
from quantfleet.logs import get_logger

__all__ = ["patiently"]

log = get_logger(__name__)
Result = TypeVar("Result")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0


def patiently(
    work: Callable[[], Result],
    what: str,
    *,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Do the work; while storage fails, wait twice as long each time and do it again.

    Args:
        what: names the work in the log.
        seconds: after so long, what storage said last is raised.
    Raises: whatever the work raises that is no fault of storage, at once; a missing file and a full disk included.
    """
    began, wait = clock(), _FIRST_WAIT_S
    while True:
        try:
            return work()
        except (OSError, StorageError) as error:
            cause = error.__cause__ if isinstance(error, StorageError) else error
            lasting = isinstance(cause, FileNotFoundError | PermissionError) or getattr(cause, "errno", None) == 28
            if lasting or clock() - began + wait > seconds:
                raise
            log.warning("storage does not answer; trying again", work=what, wait_s=wait, error=str(error)[:300])
            sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT_S)
