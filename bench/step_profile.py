"""`python -m bench.step_profile`: where the time of a training step goes, and what a window costs on 1, 2 and 4 workers.

A hybrid of 1M parameters under DDP over gloo, 128 windows a worker and step. Processor time is what is compared between numbers of
workers: it does not depend on how many cores run them at once. The parts of a step are wall-clock times of rank 0, where there is
a core for each worker. `of_which_exchange` is what backward takes longer than on one worker: the all-reduce that the computation
does not hide, and the wait for the others. Writes bench/step_profile.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.fits import fit_task
from quantfleet.testing.gang import run_gang
from quantfleet.training import DDPConfig
from quantfleet.training.fit_task import FitTask
from quantfleet.training.loop import _Fit

WORKERS, WINDOWS, EPOCHS, ROUNDS = (1, 2, 4), 128, 3, 2
PARTS = ("input", "forward", "backward", "optimizer", "loop")


class _Profiled(_Fit):
    """Our loop with a clock at each part's borders; the first epoch warms up and is not counted."""

    def __init__(self, task: FitTask, stack: contextlib.ExitStack) -> None:
        super().__init__(task, stack)
        self.spent: dict[str, float] = defaultdict(float)
        self.steps = self.windows = 0
        engine: Any = self._engine
        for name, part in (("forward", "forward"), ("backward", "backward"), ("step", "optimizer")):
            setattr(engine, name, self._clocked(part, getattr(engine, name)))
        self._meter.wait_ended = self._clocked_end(self._meter.wait_ended)  # type: ignore[method-assign]
        self._meter.wait_began = self._clocked_begin(self._meter.wait_began)  # type: ignore[method-assign]

    def _clocked(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            made = call(*arguments, **named)
            self.spent[part] += time.perf_counter() - began
            return made

        return timed

    def _clocked_begin(self, call: Callable[[], None]) -> Callable[[], None]:
        def begin() -> None:
            call()
            self._asked = time.perf_counter()

        return begin

    def _clocked_end(self, call: Callable[[], None]) -> Callable[[], None]:
        def end() -> None:
            self.spent["input"] += time.perf_counter() - self._asked
            call()

        return end

    def _train_epoch(self) -> None:
        before, cpu, began = dict(self.spent), time.process_time(), time.perf_counter()
        super()._train_epoch()
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        if self._loader.epoch == 0:
            self.spent.clear()
            return
        parts = sum(self.spent[name] - before.get(name, 0.0) for name in PARTS[:-1])
        self.spent["loop"] += wall - parts
        self.spent["cpu"] += cpu
        self.steps += self._loader.steps
        self.windows += self._loader.steps * WINDOWS


def _measured(task: FitTask) -> dict[str, float]:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    with contextlib.ExitStack() as stack:
        fit = _Profiled(task, stack)
        fit.run()
    return {**fit.spent, "steps": fit.steps, "windows": fit.windows}


def profile(workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="quantfleet-bench-step-") as folder:
        task = fit_task(folder, "1M", epochs=EPOCHS, strategy=DDPConfig(), workers=workers, windows=WINDOWS)
        ranks = run_gang(_measured, task, workers=workers, folder=Path(folder))
    first = ranks[0]
    return {
        "workers": workers,
        "cpu_us_per_window": 1e6 * sum(r["cpu"] for r in ranks) / sum(r["windows"] for r in ranks),
        "parts_ms": {name: 1e3 * first[name] / first["steps"] for name in PARTS},
    }


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    rounds = [[profile(workers) for workers in WORKERS] for _ in range(ROUNDS)]
    lone = statistics.median(r[0]["cpu_us_per_window"] for r in rounds)
    table = []
    for number, workers in enumerate(WORKERS):
        costs = [r[number]["cpu_us_per_window"] for r in rounds]
        parts = {name: statistics.median(r[number]["parts_ms"][name] for r in rounds) for name in PARTS}
        row: dict[str, Any] = {"workers": workers, "cpu_us_per_window": round(statistics.median(costs), 1)}
        row["against_one"] = round(
            statistics.median(r[number]["cpu_us_per_window"] / r[0]["cpu_us_per_window"] for r in rounds), 3
        )
        if workers <= cores:
            row["parts_ms"] = {name: round(value, 3) for name, value in parts.items()}
        table.append(row)
    for row in table[1:]:
        if "parts_ms" in row:
            exchange = row["parts_ms"]["backward"] - table[0]["parts_ms"]["backward"]
            row["parts_ms"]["of_which_exchange"] = round(exchange, 3)
    found = {
        "machine": f"{platform.machine()}, {cores} cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "rows": table,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"one worker: {lone:.0f} us of processor time a window")
    for row in table:
        print(row)


if __name__ == "__main__":
    main()
