"""What a fit says while it runs: from its workers and its controller, over a queue, to the process that started it.

`ray.train.report` is a barrier of all workers, so it carries only what comes with a checkpoint or an epoch. Everything in
between goes straight to the queue, without waiting: a send that finds no queue, or a full one, is lost and harms nobody.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.callback import ControllerCallback, ReportCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.util.queue import Empty, Queue

from quantfleet.logs import get_logger
from quantfleet.training.prometheus import FitMetrics

__all__ = ["FitCallback", "LiveChannel", "LiveReport", "LiveSink", "live_reports"]

log = get_logger(__name__)

_MOST_WAITING = 10_000
"""Messages; a driver that reads none for hours must not fill the memory of its node."""
_WORST_OF_ALL = ("input_stall", "rss_mb")
"""Of these the largest of all workers is shown: one that starves makes all of them wait."""

Kind = Literal["step", "report", "workers", "restart"]


@dataclass(frozen=True, slots=True)
class LiveReport:
    """One thing that a fit said.

    `step`: rank 0 between two reports. `report`: what the workers gave to `ray.train.report`; rank 0's row, with the worst
    input stall and the largest memory of all. `workers`: {"workers": how many are up}. `restart`: {"from_step": the step of
    the newest checkpoint}; lost workers are replaced and go on from there.
    """

    kind: Kind
    values: Mapping[str, Any]


class LiveSink:
    """The sending end. Cheap to pickle; goes to workers with their task. Never waits and never raises for a queue that is gone."""

    def __init__(self, reports: Queue, *, run: str = "", model: str = "") -> None:
        self._actor = reports.actor
        self.names = {"run": run, "model": model}
        """Tags of the fit's Prometheus metrics."""

    def send(self, values: Mapping[str, Any]) -> None:
        """Say where training stands, between two reports; rank 0 does, every few seconds (0.2 ms)."""
        self.put(LiveReport("step", dict(values)))

    def put(self, report: LiveReport) -> None:
        self._actor.put_nowait.options(num_returns=0).remote(report)  # no result: nothing to wait for, nothing to keep


class FitCallback(WorkerGroupCallback, ControllerCallback, ReportCallback):  # type: ignore[misc, unused-ignore]
    """Runs in Ray Train's controller: hands on reports, and what only the controller knows: workers and restarts.

    Built on Train's internal callbacks, which `RunConfig(callbacks=...)` takes; the public `UserCallback` sees neither.
    """

    def __init__(self, sink: LiveSink, *, run: str, model: str) -> None:
        self._sink = sink
        self._names = {"run": run, "model": model}
        self._metrics: FitMetrics | None = None  # Ray's metrics lose their tags when they are pickled
        self._checkpoint_step = 0

    def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
        if training_report.checkpoint is not None:
            self._checkpoint_step = int(metrics[0].get("step", metrics[0].get("round", 0)))
        self._sink.put(LiveReport("report", fleet_row(metrics)))

    def after_worker_group_start(self, worker_group: Any) -> None:
        self._workers(len(worker_group))

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        self._workers(0)

    def before_controller_execute_failure_decision(self, failure_decision: Any) -> None:
        if failure_decision is FailureDecision.RETRY:
            self._exported().restarted()
            self._sink.put(LiveReport("restart", {"from_step": self._checkpoint_step}))

    def _workers(self, count: int) -> None:
        self._exported().workers(count)
        self._sink.put(LiveReport("workers", {"workers": count}))

    def _exported(self) -> FitMetrics:
        if self._metrics is None:
            self._metrics = FitMetrics(**self._names)
        return self._metrics


def fleet_row(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row for what all workers reported: rank 0's, with the worst of those measures that differ between workers."""
    worst = {key: max(row[key] for row in metrics if key in row) for key in _WORST_OF_ALL if key in metrics[0]}
    return {**metrics[0], **worst}


@dataclass(frozen=True, slots=True)
class LiveChannel:
    """What a fit needs so that it is heard."""

    callback: FitCallback
    """For `FitContext.train_callbacks`."""
    sink: LiveSink
    """For `FitContext.live`."""


@contextlib.contextmanager
def live_reports(show: Callable[[LiveReport], None], *, run: str, model: str) -> Iterator[LiveChannel]:
    """While inside the block, hand everything that a fit says to `show`, in a thread of this process, in order of arrival.

    Args:
        show: must be quick; what it raises is logged, and the fit goes on.
        run, model: tags of the fit's Prometheus metrics.
    """
    reports = Queue(maxsize=_MOST_WAITING, actor_options={"num_cpus": 0})
    stop = threading.Event()

    def drain() -> None:
        while True:
            finished = stop.is_set()  # read before the last look, so that nothing put earlier is missed
            try:
                report = reports.get(timeout=0.2)
            except (Empty, queue.Empty):
                if finished:
                    return
                continue
            except RayActorError as error:
                log.warning("live reports are lost; training goes on without them", error=str(error))
                return
            try:
                show(report)
            except Exception as error:  # noqa: BLE001  # a display must not take hours of training with it
                log.error(
                    "a live report could not be shown", error=f"{type(error).__name__}: {error}", kind=report.kind
                )

    thread = threading.Thread(target=drain, name="train-reports", daemon=True)
    thread.start()
    sink = LiveSink(reports, run=run, model=model)
    try:
        yield LiveChannel(FitCallback(sink, run=run, model=model), sink)
    finally:
        stop.set()
        thread.join(timeout=10)
        reports.shutdown(force=True)
