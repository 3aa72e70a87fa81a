"""Free the placement groups that killed actors left behind.

Ray keeps a placement group until the job that made it ends, though the actor that made it is dead. Train's own helper against
that asks the dashboard and gives up for good when it gets no answer once: a search whose trials Tune stops then runs out of
CPUs and waits for ever. This one asks the control store itself, for as long as the block lasts.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import ray

from quantfleet.logs import get_logger

__all__ = ["abandoned_groups", "freeing_abandoned_groups"]

log = get_logger(__name__)

_INTERVAL_S = 1.0


@contextlib.contextmanager
def freeing_abandoned_groups(interval_s: float = _INTERVAL_S) -> Iterator[None]:
    """While inside the block, remove this job's placement groups within about `interval_s` after their actor's death.

    Raises: whatever made the watch itself fail, when the block ends: groups may then not have been freed.
    """
    ended = threading.Event()
    failures: list[Exception] = []

    def watch() -> None:
        try:
            while not ended.wait(interval_s):
                _free()
        except Exception as error:  # noqa: BLE001  # a thread's exception would be lost: it is raised again below
            log.error("placement groups are no longer watched", error=str(error))
            failures.append(error)

    thread = threading.Thread(target=watch, name="abandoned-placement-groups", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]


def abandoned_groups(records: Iterable[Any], job_id: bytes) -> list[bytes]:
    """Ids of the groups of a job that still hold resources though the actor that made them is dead.

    Args:
        records: Ray's `PlacementGroupTableData` messages.
        job_id: binary id of the job.
    """
    return [
        bytes(record.placement_group_id)
        for record in records
        if record.creator_job_id == job_id
        and record.creator_actor_id.strip(b"\xff")  # made by an actor, not by the driver
        and record.creator_actor_dead
        and not record.is_detached
        and record.state != record.REMOVED
    ]


def _free() -> None:
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    table = ray._private.state.state._connect_and_get_accessor().get_placement_group_table()
    records = (gcs_pb2.PlacementGroupTableData.FromString(record) for record in table)
    for group in abandoned_groups(records, bytes.fromhex(ray.get_runtime_context().get_job_id())):
        log.info("freeing the placement group of a dead actor", group=group.hex())
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group)))
