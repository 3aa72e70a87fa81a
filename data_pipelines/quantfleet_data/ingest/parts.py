"""The parts of a source fetched at the same time: as tasks on a Ray, or in threads of this process. One stream comes out.

Only pages and words travel; the table is compared, merged and committed by the one process that asked. Memory is bounded:
a part that runs ahead waits until its pages are taken.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence

import polars as pl

from quantfleet.contracts import Asked, FetchRequest, Source, SourceConfig
from quantfleet.errors import ClusterError
from quantfleet.logs import get_logger
from quantfleet_data.sources.ccxt_limit import ray_is_running

__all__ = ["fetch_parts"]

_log = get_logger(__name__)
_PAGES_AHEAD = 4
"""Pages of one part that may wait to be taken."""
_TASK_LOSSES = 3
"""How often a part whose worker or node died is begun anew, from the rows that are in the table by then."""

Item = pl.DataFrame | Asked


def fetch_parts(
    whole: Source, parts: Sequence[SourceConfig], ask: Callable[[], FetchRequest], settle: Callable[[], None]
) -> Generator[Item, None, None]:
    """Yield what one source delivers, part by part at the same time; items of one part keep their order.

    Args:
        whole: the source itself; used when it cannot be split.
        parts: its parts, see `SourceConfig.split`.
        ask: makes a request from the table as it is.
        settle: commits what was yielded; called before a part whose worker was lost begins anew.
    Raises: whatever a part raises. The others are stopped then.
    """
    if len(parts) == 1:
        yield from whole.fetch(ask())
        return
    yield from _on_ray(parts, ask, settle) if ray_is_running() else _in_threads(parts, ask)


def _in_threads(parts: Sequence[SourceConfig], ask: Callable[[], FetchRequest]) -> Generator[Item, None, None]:
    items: queue.Queue[Item | Exception | None] = queue.Queue(maxsize=_PAGES_AHEAD * len(parts))
    stop = threading.Event()

    def put(item: Item | Exception | None) -> None:
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work(part: SourceConfig) -> None:
        try:
            stream = part.build().fetch(ask())
            for item in stream:
                put(item)
                if stop.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - raised again where the items are taken
            put(error)
        else:
            put(None)

    threads = [
        threading.Thread(target=work, args=(part,), name=f"fetch-{n}", daemon=True) for n, part in enumerate(parts)
    ]
    for thread in threads:
        thread.start()
    running, failure = len(parts), None
    try:
        while running and failure is None:
            item = items.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                failure = item
            else:
                yield item
    finally:
        stop.set()
    if failure is None:
        return
    while not items.empty():  # whole pages that were ready when one part failed are as good as any
        late = items.get()
        if late is not None and not isinstance(late, Exception):
            yield late
    raise failure


def _on_ray(
    parts: Sequence[SourceConfig], ask: Callable[[], FetchRequest], settle: Callable[[], None]
) -> Generator[Item, None, None]:
    import ray

    def deliver(part: SourceConfig, request: FetchRequest) -> Generator[Item, None, None]:
        yield from part.build().fetch(request)

    # No retries by Ray: a task run again would start where this one did, not where the table ends by now.
    task = ray.remote(deliver).options(
        num_cpus=0, max_retries=0, num_returns="streaming", _generator_backpressure_num_objects=_PAGES_AHEAD
    )
    losses = dict.fromkeys(range(len(parts)), 0)
    running = {task.remote(part, ask()): number for number, part in enumerate(parts)}
    try:
        while running:
            ready, _ = ray.wait(list(running), num_returns=1, fetch_local=False)
            stream = ready[0]
            try:
                item = ray.get(next(stream))
            except StopIteration:
                del running[stream]
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except ray.exceptions.RayError as error:
                number = running.pop(stream)
                losses[number] += 1
                if losses[number] > _TASK_LOSSES:
                    raise ClusterError(
                        f"the task that fetches part {number + 1} of {len(parts)} of {parts[number].source_name} was lost "
                        f"{losses[number]} times, last {type(error).__name__}. What was fetched so far is kept; see "
                        "`quantfleet doctor`, then run the same ingest again.",
                        source=parts[number].source_name,
                    ) from error
                _log.warning("ingest.task_lost", source=parts[number].source_name, part=number, error=str(error)[:200])
                settle()
                running[task.remote(parts[number], ask())] = number
            else:
                yield item
    finally:
        for stream in running:
            ray.cancel(stream)
