"""Prometheus metrics of a fit, through Ray: every node's agent exports them at its metrics port, with or without dashboard.

Ray puts `ray_` before each name and ends counters in `_total`. Its histograms are exact in their counts; their `_sum` is made of
the buckets' midpoints, so take mean step times as `1 / rate(..._count)`, or quantiles from the buckets.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

__all__ = ["FitMetrics", "WorkerMetrics"]

_STEP_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class WorkerMetrics:
    """A worker's: `quantfleet_train_rows_total`, `.._step_seconds`, `.._input_stall_ratio`, tagged run, model, rank.

    Is a StepExporter. Made on the worker, once a process; a step costs some 8 microseconds.
    """

    def __init__(self, *, run: str, model: str, rank: int) -> None:
        tags = {"run": run, "model": model, "rank": str(rank)}
        keys = tuple(tags)
        self._rows = Counter("quantfleet_train_rows", "Windows this worker trained on.", tag_keys=keys)
        self._step = Histogram(
            "quantfleet_train_step_seconds",
            "Time of a step, waiting for its input included.",
            boundaries=list(_STEP_BUCKETS_S),
            tag_keys=keys,
        )
        self._stall = Gauge(
            "quantfleet_train_input_stall_ratio", "Share of the steps' time spent waiting for input.", tag_keys=keys
        )
        for metric in (self._rows, self._step, self._stall):
            metric.set_default_tags(tags)

    def step(self, seconds: float) -> None:
        self._step.observe(seconds)

    def interval(self, *, rows: int, input_stall: float) -> None:
        if rows > 0:  # a counter refuses zero
            self._rows.inc(rows)
        self._stall.set(input_stall)


class FitMetrics:
    """A whole fit's, kept by its controller, which outlives its workers: `quantfleet_train_workers`, `.._restarts_total`."""

    def __init__(self, *, run: str, model: str) -> None:
        tags = {"run": run, "model": model}
        keys = tuple(tags)
        self._workers = Gauge("quantfleet_train_workers", "Workers that are up.", tag_keys=keys)
        self._restarts = Counter(
            "quantfleet_train_restarts", "How often lost workers were replaced and the fit went on.", tag_keys=keys
        )
        for metric in (self._workers, self._restarts):
            metric.set_default_tags(tags)

    def workers(self, count: int) -> None:
        self._workers.set(count)

    def restarted(self) -> None:
        self._restarts.inc()
