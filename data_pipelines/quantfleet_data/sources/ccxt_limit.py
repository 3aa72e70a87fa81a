"""One rate limit per exchange for all that talk to it: tasks on a cluster, threads of a process, one after another.

The decision is a value: `SendSlots` says how long to wait, and sleeps nowhere. Two thin edges share it out: an object in
this process, and a named Ray actor where a Ray is running.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.actor import ActorHandle

__all__ = ["RateLimit", "SendSlots", "ray_is_running", "shared_limit"]

_NAMESPACE = "quantfleet"


class SendSlots:
    """A token bucket, kept as the time at which the next request may be sent (the "generic cell rate algorithm").

    A request that costs c seconds takes a slot of c seconds. Time that nobody used is saved up to `burst_s`, and is then
    spent at once. The cost comes with every request, so clients that count differently share one limit.
    Not thread-safe. Source: ITU-T I.371, the leaky bucket as a virtual schedule.
    """

    def __init__(self, *, burst_s: float = 0.0) -> None:
        self.burst_s = burst_s
        self._free_at_s = float("-inf")

    def reserve(self, cost_s: float, *, now_s: float) -> float:
        """Take the next slot. Returns: seconds from now until it begins, 0 when it may be used at once."""
        slot_s = max(self._free_at_s, now_s - self.burst_s)
        self._free_at_s = slot_s + cost_s
        return max(0.0, slot_s - now_s)

    def hold(self, wait_s: float, *, now_s: float) -> None:
        """Give out no slot before `now_s + wait_s`: the exchange asked one client to wait, and meant all of them."""
        self._free_at_s = max(self._free_at_s, now_s + wait_s)


class RateLimit(ABC):
    """What clients of one exchange share. Thread-safe."""

    @abstractmethod
    def reserve(self, cost_s: float) -> float:
        """Take the next slot; returns the seconds to wait for it."""

    @abstractmethod
    def hold(self, wait_s: float) -> None:
        """Let nobody send for so many seconds."""

    def throttle(self, unit_s: float, *, sleep: Callable[[float], None] = time.sleep) -> Callable[[float | None], None]:
        """What takes the place of a ccxt client's own `throttle`: waits for a slot of `cost` units.

        Args:
            unit_s: seconds per unit of cost, ccxt's `rateLimit`.
        """

        def wait(cost: float | None = None) -> None:
            wait_s = self.reserve(unit_s * (1.0 if cost is None else float(cost)))
            if wait_s > 0:
                sleep(wait_s)

        return wait


class _Local(RateLimit):
    """For the threads of this process."""

    def __init__(self) -> None:
        self._slots, self._lock = SendSlots(), threading.Lock()

    def reserve(self, cost_s: float) -> float:
        with self._lock:
            return self._slots.reserve(cost_s, now_s=time.monotonic())

    def hold(self, wait_s: float) -> None:
        with self._lock:
            self._slots.hold(wait_s, now_s=time.monotonic())


class _OnRay(RateLimit):
    """For every process of a Ray cluster: the actor's clock is the only one that counts."""

    def __init__(self, actor: ActorHandle) -> None:
        self._actor = actor

    def reserve(self, cost_s: float) -> float:
        import ray

        return float(ray.get(self._actor.reserve.remote(cost_s)))

    def hold(self, wait_s: float) -> None:
        import ray

        ray.get(self._actor.hold.remote(wait_s))


@functools.cache
def _local(exchange: str) -> RateLimit:
    return _Local()


def _on_ray(exchange: str) -> RateLimit:
    import ray

    # Detached: it outlives the job that made it, so that two jobs on one cluster share it too. It holds no CPU. When its
    # node dies it starts anew elsewhere and has forgotten one slot at most.
    options: dict[str, Any] = {"name": f"rate-limit-{exchange}", "namespace": _NAMESPACE, "lifetime": "detached"}
    actor = ray.remote(_Local).options(**options, get_if_exists=True, num_cpus=0, max_restarts=-1, max_task_retries=-1)
    return _OnRay(actor.remote())


def shared_limit(exchange: str) -> RateLimit:
    """The one limit of an exchange: of the whole cluster where this process is connected to a Ray, else of the process.

    Args:
        exchange: ccxt's id; every client that uses the same one waits for the others.
    """
    return _on_ray(exchange) if ray_is_running() else _local(exchange)


def ray_is_running() -> bool:
    """Whether this process is connected to a Ray. One that never imported it is not, and need not pay for the import."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
