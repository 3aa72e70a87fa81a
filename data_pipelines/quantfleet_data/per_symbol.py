"""The shape of the lake's jobs: one task a symbol, so that memory is bounded by the largest symbol's history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import ray.data

__all__ = ["Run", "in_process", "on_ray", "per_symbol"]

T = TypeVar("T")
S = TypeVar("S")
Item = TypeVar("Item")
_TASKS_PER_CPU = 2


class Run(Protocol):
    """Calls `work(item, shared)` for every item (a symbol, or several), somewhere; results come in any order."""

    def __call__(self, work: Callable[[Item, S], T], items: Sequence[Item], shared: S) -> Iterator[T]: ...


def in_process(work: Callable[[Item, S], T], items: Sequence[Item], shared: S) -> Iterator[T]:
    """One after the other, here."""
    return (work(item, shared) for item in items)


def on_ray(work: Callable[[Item, S], T], items: Sequence[Item], shared: S) -> Iterator[T]:
    """As Ray tasks, two per processor of the cluster at a time, so that what waits for the driver stays small.

    A task whose node is lost runs again elsewhere.
    """
    import ray

    task: Any = ray.remote(work)
    reference = ray.put(shared)
    most = max(int(ray.cluster_resources().get("CPU", 1)) * _TASKS_PER_CPU, 1)
    waiting: list[Any] = []
    for item in items:
        if len(waiting) >= most:
            done, waiting = ray.wait(waiting)
            yield ray.get(done[0])
        waiting.append(task.remote(item, reference))
    while waiting:
        done, waiting = ray.wait(waiting)
        yield ray.get(done[0])


def per_symbol(symbols: Sequence[str]) -> ray.data.Dataset:
    """A dataset of rows {"symbol": ...}, one block, hence one task, each."""
    import ray.data

    return ray.data.from_items([{"symbol": s} for s in symbols], override_num_blocks=len(symbols))
